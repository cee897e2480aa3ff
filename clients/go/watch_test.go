package entityservice_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"entityservice"
	entityv1 "entityservice/gen/entity/v1"
)

type watchStream = grpc.ServerStreamingServer[entityv1.WatchEntitiesResponse]

// sends is a stream of messages at these positions, which then ends so.
func sends(end error, positions ...string) func(watchStream) error {
	return func(stream watchStream) error {
		for _, position := range positions {
			if err := stream.Send(&entityv1.WatchEntitiesResponse{Position: position}); err != nil {
				return err
			}
		}
		return end
	}
}

func TestWatchGoesOnFromItsPosition(t *testing.T) {
	expired := refusal(codes.OutOfRange, "POSITION_EXPIRED", 0)
	tooSlow := refusal(codes.ResourceExhausted, "WATCH_TOO_SLOW", 0)
	cancelled := refusal(codes.Canceled, "CANCELLED", 0)
	tooLate := refusal(codes.DeadlineExceeded, "DEADLINE_EXCEEDED", 0)
	server := &scripted{streams: []func(watchStream) error{
		sends(noDatabase, "1", "2"), sends(lost), sends(tooSlow, "3"), sends(overloaded(time.Millisecond)), sends(nil, "4"),
		sends(cancelled, "5"), sends(tooLate, "6"), sends(expired, "7"),
	}}
	client := newClient(t, "http://"+server.serve(t))
	var seen []string
	var last error
	request := &entityv1.WatchEntitiesRequest{Position: "0"}
	for message, err := range client.Watch(t.Context(), request) {
		if err != nil {
			last = err
			continue
		}
		seen = append(seen, message.GetPosition())
	}
	if want := []string{"1", "2", "3", "4", "5", "6", "7"}; !slices.Equal(seen, want) {
		t.Errorf("seen: %q", seen)
	}
	if from := server.watches; !slices.Equal(from, []string{"0", "2", "2", "3", "3", "4", "5", "6"}) {
		t.Errorf("watched from: %q", from)
	}
	if !errors.Is(last, entityservice.ErrPositionExpired) || !entityservice.IsReason(last, entityv1.ErrorReason_ERROR_REASON_POSITION_EXPIRED) {
		t.Errorf("ended with %v", last)
	}
	if request.GetPosition() != "0" {
		t.Errorf("the caller's request was changed: %q", request.GetPosition())
	}
}

func TestWatchEndsWithARefusalThatStays(t *testing.T) {
	for _, reason := range []string{"UNAUTHENTICATED", "POSITION_INVALID", "INTERNAL"} {
		server := &scripted{streams: []func(watchStream) error{sends(refusal(codes.Unknown, reason, 0), "1")}}
		client := newClient(t, "http://"+server.serve(t))
		var last error
		for _, err := range client.Watch(t.Context(), &entityv1.WatchEntitiesRequest{}) {
			last = err
		}
		if said, _ := entityservice.RefusalOf(last); said.Reason != reason {
			t.Errorf("%s: ended with %v", reason, last)
		}
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	ended := make(chan struct{})
	server := &scripted{streams: []func(watchStream) error{func(stream watchStream) error {
		_ = sends(nil, "1")(stream)
		<-stream.Context().Done()
		close(ended)
		return status.FromContextError(stream.Context().Err()).Err()
	}}}
	client := newClient(t, "http://"+server.serve(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range client.Watch(ctx, &entityv1.WatchEntitiesRequest{}) {
		cancel()
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("ended with %v", last)
	}
	<-ended
}

func TestLeavingTheLoopEndsTheStream(t *testing.T) {
	ended := make(chan struct{})
	server := &scripted{streams: []func(watchStream) error{func(stream watchStream) error {
		_ = sends(nil, "1")(stream)
		<-stream.Context().Done()
		close(ended)
		return nil
	}}}
	client := newClient(t, "http://"+server.serve(t))
	for range client.Watch(t.Context(), &entityv1.WatchEntitiesRequest{}) {
		break
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the stream goes on")
	}
}
