package entityservice_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"entityservice"
	entityv1 "entityservice/gen/entity/v1"
)

// The tests below call the real service, two processes on one database, which `npm run test:go` starts.

func realClient(t *testing.T, options ...entityservice.Option) *entityservice.Client {
	t.Helper()
	target := os.Getenv("ENTITY_SERVICE_TARGET")
	if target == "" {
		t.Skip("needs the service: npm run test:go")
	}
	client, err := entityservice.New(target, os.Getenv("ENTITY_SERVICE_API_KEY"), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// ask has the runner do something to the service: "restart" its processes, one after the other, or "cut" its connections to
// the database.
func ask(t *testing.T, what string) {
	t.Helper()
	response, err := http.Post(os.Getenv("ENTITY_SERVICE_CONTROL")+"/"+what, "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", what, said)
	}
}

var lastID atomic.Int64

// newPerson creates one and answers its external id.
func newPerson(t *testing.T, client *entityservice.Client, name string) string {
	t.Helper()
	id := fmt.Sprintf("go-%d-%d", time.Now().UnixNano(), lastID.Add(1))
	_, err := client.Entities.CreateEntity(t.Context(), &entityv1.CreateEntityRequest{Entity: &entityv1.Entity{
		Type: entityv1.EntityType_ENTITY_TYPE_PERSON, CountryCode: "AR", Name: name, ExternalId: id,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestUnary(t *testing.T) {
	client := realClient(t, entityservice.WithSource("go-test"))
	id := newPerson(t, client, "Lucía Ferreyra")
	got, err := client.Entities.GetEntity(t.Context(), &entityv1.GetEntityRequest{Lookup: entityservice.ByExternalID(id)})
	if err != nil || got.GetEntity().GetName() != "Lucía Ferreyra" {
		t.Fatal(got, err)
	}
	same, err := client.Entities.GetEntity(t.Context(), &entityv1.GetEntityRequest{Lookup: entityservice.ByID(got.GetEntity().GetId())})
	if err != nil || same.GetEntity().GetExternalId() != id {
		t.Fatal(same, err)
	}
	ctx := entityservice.WithActor(t.Context(), "user-7")
	updated, err := client.Entities.UpdateEntity(ctx, &entityv1.UpdateEntityRequest{
		Lookup: entityservice.ByExternalID(id), Entity: &entityv1.Entity{Name: "Lucía María Ferreyra"},
	})
	if err != nil || len(updated.GetUpdatedFields()) != 1 {
		t.Fatal(updated, err)
	}
	events, err := client.Entities.ListEntityEvents(t.Context(), &entityv1.ListEntityEventsRequest{Lookup: entityservice.ByExternalID(id)})
	if err != nil {
		t.Fatal(err)
	}
	if newest := events.GetEvents()[0]; newest.GetActor() != "user-7" || newest.GetSource() != "go-test" || !uuid.MatchString(newest.GetRequestId()) {
		t.Errorf("actor %q, source %q, request_id %q", newest.GetActor(), newest.GetSource(), newest.GetRequestId())
	}
}

func TestTheSameRequestIDIsAnsweredTheSame(t *testing.T) {
	client := realClient(t)
	id := newPerson(t, client, "Twice")
	request := &entityv1.UpdateEntityRequest{
		Lookup: entityservice.ByExternalID(id), Entity: &entityv1.Entity{Name: "Once"}, RequestId: "3f1c0bb4-4f6a-4c1b-9f58-0a4f5a6f3a12",
	}
	var header metadata.MD
	for range 2 {
		if _, err := client.Entities.UpdateEntity(t.Context(), request, grpc.Header(&header)); err != nil {
			t.Fatal(err)
		}
	}
	if replay := header.Get("idempotent-replay"); len(replay) != 1 || replay[0] != "true" {
		t.Errorf("idempotent-replay: %q", replay)
	}
}

func TestDetailsOfErrors(t *testing.T) {
	client := realClient(t)
	_, err := client.Entities.GetEntity(t.Context(), &entityv1.GetEntityRequest{Lookup: entityservice.ByExternalID("nobody")})
	if !entityservice.IsReason(err, entityv1.ErrorReason_ERROR_REASON_NOT_FOUND) || entityservice.IsReason(err, entityv1.ErrorReason_ERROR_REASON_INTERNAL) {
		t.Error(err)
	}
	if said, _ := entityservice.RefusalOf(fmt.Errorf("while reading: %w", err)); said.Code != codes.NotFound || said.Metadata["lookup"] != "external_id" {
		t.Errorf("%+v", said)
	}
	_, err = client.Entities.CreateEntity(t.Context(), &entityv1.CreateEntityRequest{Entity: &entityv1.Entity{CountryCode: "UK"}})
	said, found := entityservice.RefusalOf(err)
	if !found || said.Code != codes.InvalidArgument || said.Reason != "VALIDATION_ERROR" || len(said.Violations) < 2 || said.Violations[0].Field == "" || said.Violations[0].Description == "" {
		t.Errorf("%+v", said)
	}
	batch, err := client.Entities.BatchGetEntities(t.Context(), &entityv1.BatchGetEntitiesRequest{Lookups: []*entityv1.EntityLookup{entityservice.ByTaxID("nobody")}})
	if err != nil {
		t.Fatal(err)
	}
	if one := status.ErrorProto(batch.GetResults()[0].GetError()); !entityservice.IsReason(one, entityv1.ErrorReason_ERROR_REASON_NOT_FOUND) {
		t.Error(one)
	}
	if _, found := entityservice.RefusalOf(errors.New("of no call")); found {
		t.Error("a refusal where there is none")
	}
}

func TestAKeyThatIsNone(t *testing.T) {
	realClient(t)
	client := newClient(t, os.Getenv("ENTITY_SERVICE_TARGET"))
	_, err := client.Entities.GetEntity(t.Context(), &entityv1.GetEntityRequest{Lookup: entityservice.ByExternalID("nobody")})
	if !entityservice.IsReason(err, entityv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED) {
		t.Error(err)
	}
}

func TestAPageOfLargeEntities(t *testing.T) {
	client := realClient(t)
	note, prefix := strings.Repeat("x", 4_000), fmt.Sprintf("Large %d", time.Now().UnixNano())
	attributes, err := structpb.NewStruct(map[string]any{"notes": slices.Repeat([]any{note}, 15)})
	if err != nil {
		t.Fatal(err)
	}
	const count = 100
	for range count {
		_, err := client.Entities.CreateEntity(t.Context(), &entityv1.CreateEntityRequest{Entity: &entityv1.Entity{
			Type: entityv1.EntityType_ENTITY_TYPE_COMPANY, CountryCode: "AR", Name: prefix, Attributes: attributes,
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	seen, pages := 0, 0
	request := &entityv1.ListEntitiesRequest{NamePrefix: prefix, PageSize: 1000}
	for {
		page, err := client.Entities.ListEntities(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		seen += len(page.GetEntities())
		pages++
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			break
		}
	}
	if seen != count || pages < 2 {
		t.Errorf("%d entities on %d pages", seen, pages)
	}
}

func TestImport(t *testing.T) {
	client := realClient(t)
	stream, err := client.Entities.ImportEntities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const rows = 1_000
	prefix := fmt.Sprintf("go-import-%d-", time.Now().UnixNano())
	go func() {
		for row := range rows {
			entity := &entityv1.Entity{Type: entityv1.EntityType_ENTITY_TYPE_PERSON, CountryCode: "AR", Name: "Ana", ExternalId: fmt.Sprint(prefix, row)}
			if row == 7 {
				entity.CountryCode = "UK"
			}
			if stream.Send(&entityv1.ImportEntitiesRequest{Entity: entity}) != nil {
				return // Recv says why
			}
		}
		_ = stream.CloseSend()
	}()
	var results []*entityv1.ImportResult
	var progress *entityv1.ImportProgress
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		results, progress = append(results, answer.GetResults()...), answer.GetProgress()
	}
	if len(results) != rows || progress.GetCreated() != rows-1 || progress.GetFailed() != 1 {
		t.Errorf("%d results, %v", len(results), progress)
	}
	if said, _ := entityservice.RefusalOf(status.ErrorProto(results[7].GetError())); said.Reason != "VALIDATION_ERROR" || len(said.Violations) != 1 {
		t.Errorf("row 7: %+v", said)
	}
}

func TestWatch(t *testing.T) {
	client := realClient(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var id, position string
	for message, err := range client.Watch(ctx, &entityv1.WatchEntitiesRequest{}) {
		if err != nil {
			t.Fatal(err)
		}
		if position == "" {
			id = newPerson(t, client, "Watched")
		}
		position = message.GetPosition()
		if message.GetEvent().GetExternalId() == id {
			break
		}
	}
	if ctx.Err() != nil {
		t.Error("the event did not come")
	}
	for _, err := range client.Watch(ctx, &entityv1.WatchEntitiesRequest{Position: "nonsense"}) {
		if !entityservice.IsReason(err, entityv1.ErrorReason_ERROR_REASON_POSITION_INVALID) {
			t.Error(err)
		}
	}
}

func TestCancellation(t *testing.T) {
	client := realClient(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := client.Entities.GetEntity(ctx, &entityv1.GetEntityRequest{Lookup: entityservice.ByExternalID("nobody")})
	if status.Code(err) != codes.Canceled {
		t.Error(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range client.Watch(ctx, &entityv1.WatchEntitiesRequest{}) {
		cancel()
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Error(last)
	}
}

func TestDeadline(t *testing.T) {
	client := realClient(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond)
	defer cancel()
	_, err := client.Entities.GetEntity(ctx, &entityv1.GetEntityRequest{Lookup: entityservice.ByExternalID("nobody")})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
}

// While both processes restart, one after the other, and while the database cuts every connection: no call fails, no
// event of the watch is missing, and none comes twice.
func TestNothingFailsWhileTheServiceRestarts(t *testing.T) {
	client := realClient(t)
	ids := []string{newPerson(t, client, "Restarted one"), newPerson(t, client, "Restarted two")}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watching, seen, watched := make(chan struct{}), map[string]int{}, make(chan error, 1)
	var written atomic.Int64
	go func() {
		isFirst := true
		for message, err := range client.Watch(ctx, &entityv1.WatchEntitiesRequest{}) {
			if err != nil {
				watched <- err
				return
			}
			if isFirst {
				close(watching)
				isFirst = false
			}
			if write := message.GetEvent().GetNewValues().GetFields()["attributes"].GetStructValue().GetFields()["restart"]; write != nil {
				seen[write.GetStringValue()]++
				if write.GetStringValue() == "last" {
					watched <- nil
					return
				}
			}
		}
	}()
	<-watching
	write := func(value string) error {
		attributes, _ := structpb.NewStruct(map[string]any{"restart": value})
		_, err := client.Entities.UpdateEntity(t.Context(), &entityv1.UpdateEntityRequest{
			Lookup: entityservice.ByExternalID(ids[len(value)%2]), Entity: &entityv1.Entity{Attributes: attributes},
		})
		return err
	}
	stop, done := make(chan struct{}), make(chan error, 8)
	for range cap(done) {
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				if err := write(fmt.Sprint(written.Add(1))); err != nil {
					done <- fmt.Errorf("write: %w", err)
					return
				}
				if _, err := client.Entities.GetEntity(t.Context(), &entityv1.GetEntityRequest{Lookup: entityservice.ByExternalID(ids[0])}); err != nil {
					done <- fmt.Errorf("read: %w", err)
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
	ask(t, "restart")
	ask(t, "cut")
	time.Sleep(time.Second)
	close(stop)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := write("last"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-watched:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the last event did not come")
	}
	for value := range written.Load() {
		if times := seen[fmt.Sprint(value+1)]; times != 1 {
			t.Errorf("write %d came %d times", value+1, times)
		}
	}
	t.Logf("%d writes", written.Load())
}
