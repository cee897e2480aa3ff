package entityservice_test

import (
	"context"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"entityservice"
	entityv1 "entityservice/gen/entity/v1"
)

// scripted answers each call with the next error of its script, and with success where that is over. It stands for what the
// real service does only now and then: lost commits, conflicts, overload.
type scripted struct {
	entityv1.UnimplementedEntityServiceServer
	entityv1.UnimplementedOrganizationServiceServer

	mutex  sync.Mutex
	script []error
	// What has come: the request_id of writes, and when.
	requestIDs []string
	times      []time.Time
	headers    metadata.MD
	watches    []string
	streams    []func(grpc.ServerStreamingServer[entityv1.WatchEntitiesResponse]) error
}

func (s *scripted) next(ctx context.Context, requestID string) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.headers, _ = metadata.FromIncomingContext(ctx)
	s.requestIDs = append(s.requestIDs, requestID)
	s.times = append(s.times, time.Now())
	if len(s.script) == 0 {
		return nil
	}
	err := s.script[0]
	s.script = s.script[1:]
	if refusal, _ := entityservice.RefusalOf(err); refusal.Reason == "OVERLOADED" {
		pause := strconv.FormatInt(refusal.RetryAfter.Milliseconds(), 10)
		_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", pause))
	}
	return err
}

func (s *scripted) GetEntity(ctx context.Context, _ *entityv1.GetEntityRequest) (*entityv1.GetEntityResponse, error) {
	return &entityv1.GetEntityResponse{}, s.next(ctx, "")
}

func (s *scripted) UpdateEntity(ctx context.Context, request *entityv1.UpdateEntityRequest) (*entityv1.UpdateEntityResponse, error) {
	return &entityv1.UpdateEntityResponse{}, s.next(ctx, request.GetRequestId())
}

func (s *scripted) CreateApiKey(ctx context.Context, _ *entityv1.CreateApiKeyRequest) (*entityv1.CreateApiKeyResponse, error) {
	return &entityv1.CreateApiKeyResponse{}, s.next(ctx, "")
}

func (s *scripted) ListEntityEvents(ctx context.Context, request *entityv1.ListEntityEventsRequest) (*entityv1.ListEntityEventsResponse, error) {
	return &entityv1.ListEntityEventsResponse{}, s.next(ctx, request.GetRequestId())
}

func (s *scripted) WatchEntities(request *entityv1.WatchEntitiesRequest, stream grpc.ServerStreamingServer[entityv1.WatchEntitiesResponse]) error {
	s.mutex.Lock()
	s.watches = append(s.watches, request.GetPosition())
	run := s.streams[0]
	s.streams = s.streams[1:]
	s.mutex.Unlock()
	return run(stream)
}

func (s *scripted) attempts() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return len(s.times)
}

// serve runs it on a port, until the test ends.
func (s *scripted) serve(t *testing.T, options ...grpc.ServerOption) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	entityv1.RegisterEntityServiceServer(server, s)
	entityv1.RegisterOrganizationServiceServer(server, s)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

func newClient(t *testing.T, target string, options ...entityservice.Option) *entityservice.Client {
	t.Helper()
	client, err := entityservice.New(target, "key", options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// refusal is an error as the service makes it.
func refusal(code codes.Code, reason string, pause time.Duration) error {
	said := status.New(code, "refused")
	said, err := said.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "entity.v1"})
	if err == nil && pause > 0 {
		said, err = said.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(pause)})
	}
	if err != nil {
		panic(err)
	}
	return said.Err()
}

var (
	lost          = status.Error(codes.Unavailable, "connection lost")
	commitUnknown = refusal(codes.Unavailable, "COMMIT_UNKNOWN", 0)
	writeConflict = refusal(codes.Aborted, "WRITE_CONFLICT", 0)
	noDatabase    = refusal(codes.Unavailable, "DATABASE_UNAVAILABLE", 0)
	etagMismatch  = refusal(codes.Aborted, "ETAG_MISMATCH", 0)
)

func overloaded(pause time.Duration) error { return refusal(codes.Unavailable, "OVERLOADED", pause) }

func repeat(err error, times int) []error {
	errs := make([]error, times)
	for i := range errs {
		errs[i] = err
	}
	return errs
}
