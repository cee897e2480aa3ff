package entityservice_test

import (
	"context"
	"regexp"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"entityservice"
	entityv1 "entityservice/gen/entity/v1"
)

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestWritesAreSentAgainUnderOneRequestID(t *testing.T) {
	for name, failure := range map[string]error{
		"connection lost": lost, "COMMIT_UNKNOWN": commitUnknown, "WRITE_CONFLICT": writeConflict,
		"DATABASE_UNAVAILABLE": noDatabase, "OVERLOADED": overloaded(time.Millisecond),
	} {
		t.Run(name, func(t *testing.T) {
			server := &scripted{script: repeat(failure, 2)}
			client := newClient(t, "http://"+server.serve(t))
			request := &entityv1.UpdateEntityRequest{Lookup: entityservice.ByExternalID("crm-1")}
			if _, err := client.Entities.UpdateEntity(t.Context(), request); err != nil {
				t.Fatal(err)
			}
			ids := server.requestIDs
			if len(ids) != 3 || !uuid.MatchString(ids[0]) || ids[1] != ids[0] || ids[2] != ids[0] {
				t.Errorf("request ids of three attempts: %q", ids)
			}
			if request.GetRequestId() != "" {
				t.Errorf("the caller's request was changed: %q", request.GetRequestId())
			}
		})
	}
}

func TestTheCallersRequestIDIsKept(t *testing.T) {
	server := &scripted{script: repeat(commitUnknown, 1)}
	client := newClient(t, "http://"+server.serve(t))
	const id = "3f1c0bb4-4f6a-4c1b-9f58-0a4f5a6f3a11"
	if _, err := client.Entities.UpdateEntity(t.Context(), &entityv1.UpdateEntityRequest{RequestId: id}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(server.requestIDs, []string{id, id}) {
		t.Errorf("request ids: %q", server.requestIDs)
	}
}

func TestTwoCallsHaveTwoRequestIDs(t *testing.T) {
	server := &scripted{}
	client := newClient(t, "http://"+server.serve(t))
	request := &entityv1.UpdateEntityRequest{Reason: "kept"}
	for range 2 {
		if _, err := client.Entities.UpdateEntity(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	if server.requestIDs[0] == server.requestIDs[1] {
		t.Errorf("both are %q: the second would be answered what the first was", server.requestIDs[0])
	}
}

func TestTheFilterOfAListIsNotMade(t *testing.T) {
	server := &scripted{}
	client := newClient(t, "http://"+server.serve(t))
	if _, err := client.Entities.ListEntityEvents(t.Context(), &entityv1.ListEntityEventsRequest{}); err != nil {
		t.Fatal(err)
	}
	if server.requestIDs[0] != "" {
		t.Errorf("events of request %q were asked for", server.requestIDs[0])
	}
}

func TestReadsAreSentAgain(t *testing.T) {
	for name, failure := range map[string]error{
		"connection lost": lost, "DATABASE_UNAVAILABLE": noDatabase, "WRITE_CONFLICT": writeConflict,
		"OVERLOADED": overloaded(time.Millisecond),
	} {
		t.Run(name, func(t *testing.T) {
			server := &scripted{script: repeat(failure, 2)}
			client := newClient(t, "http://"+server.serve(t))
			if _, err := client.Entities.GetEntity(t.Context(), &entityv1.GetEntityRequest{}); err != nil {
				t.Fatal(err)
			}
			if server.attempts() != 3 {
				t.Errorf("%d attempts", server.attempts())
			}
		})
	}
}

func TestTheDelayOfTheServiceIsWaitedFor(t *testing.T) {
	const pause = 300 * time.Millisecond
	calls := map[string]func(context.Context, *entityservice.Client) error{
		"a write": func(ctx context.Context, client *entityservice.Client) error {
			_, err := client.Entities.UpdateEntity(ctx, &entityv1.UpdateEntityRequest{})
			return err
		},
		"a read": func(ctx context.Context, client *entityservice.Client) error {
			_, err := client.Entities.GetEntity(ctx, &entityv1.GetEntityRequest{})
			return err
		},
		"a write without a request_id": func(ctx context.Context, client *entityservice.Client) error {
			_, err := client.Organizations.CreateApiKey(ctx, &entityv1.CreateApiKeyRequest{})
			return err
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			server := &scripted{script: []error{overloaded(pause)}}
			client := newClient(t, "http://"+server.serve(t))
			if err := call(t.Context(), client); err != nil {
				t.Fatal(err)
			}
			if waited := server.times[1].Sub(server.times[0]); waited < pause || waited > 3*pause {
				t.Errorf("waited for %v", waited)
			}
		})
	}
}

func TestWhatCannotSucceedIsNotSentAgain(t *testing.T) {
	for name, failure := range map[string]error{
		"ETAG_MISMATCH": etagMismatch, "NOT_FOUND": refusal(codes.NotFound, "NOT_FOUND", 0),
		"INTERNAL": refusal(codes.Internal, "INTERNAL", 0), "aborted, by whom nobody says": status.Error(codes.Aborted, ""),
	} {
		t.Run(name, func(t *testing.T) {
			server := &scripted{script: repeat(failure, 2)}
			client := newClient(t, "http://"+server.serve(t))
			_, err := client.Entities.UpdateEntity(t.Context(), &entityv1.UpdateEntityRequest{})
			if status.Code(err) != status.Code(failure) || server.attempts() != 1 {
				t.Errorf("%d attempts, %v", server.attempts(), err)
			}
		})
	}
}

func TestAWriteWithoutARequestIDIsNotSentAgain(t *testing.T) {
	server := &scripted{script: repeat(lost, 2)}
	client := newClient(t, "http://"+server.serve(t))
	_, err := client.Organizations.CreateApiKey(t.Context(), &entityv1.CreateApiKeyRequest{})
	if status.Code(err) != codes.Unavailable || server.attempts() != 1 {
		t.Errorf("%d attempts, %v", server.attempts(), err)
	}
}

func TestAttemptsEndWithTheDeadline(t *testing.T) {
	server := &scripted{script: repeat(overloaded(10*time.Second), 2)}
	client := newClient(t, "http://"+server.serve(t))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	_, err := client.Entities.UpdateEntity(ctx, &entityv1.UpdateEntityRequest{})
	if !entityservice.IsReason(err, entityv1.ErrorReason_ERROR_REASON_OVERLOADED) || time.Since(began) > 500*time.Millisecond {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

// Of 2,000 writes that all fail, as many are sent again as the budget has, and no more.
func TestRetriesHaveABudget(t *testing.T) {
	const calls = 2_000
	server := &scripted{script: repeat(writeConflict, 1_000_000)}
	client := newClient(t, "http://"+server.serve(t))
	done := make(chan error, calls)
	for range calls {
		go func() {
			_, err := client.Entities.UpdateEntity(t.Context(), &entityv1.UpdateEntityRequest{})
			done <- err
		}()
	}
	for range calls {
		if err := <-done; err == nil {
			t.Fatal("one succeeded")
		}
	}
	if again := server.attempts() - calls; again != 250 {
		t.Errorf("%d were sent again", again)
	}
}
