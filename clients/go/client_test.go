package entityservice_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"entityservice"
	entityv1 "entityservice/gen/entity/v1"
)

func TestTargetsThatAreNone(t *testing.T) {
	for _, target := range []string{"", "127.0.0.1:50051", "ftp://host", "http://", "http://:80", "http://host/path", "http://a:1,,b:2", "https://user@host"} {
		if client, err := entityservice.New(target, "key"); err == nil {
			_ = client.Close()
			t.Errorf("%q was taken", target)
		}
	}
	if _, err := entityservice.New("http://127.0.0.1:1", ""); err == nil {
		t.Error("an empty key was taken")
	}
}

func TestTargetsAreTaken(t *testing.T) {
	for _, target := range []string{"http://host", "http://host:1/", "https://host", "http://[::1]:1", "https://[::1]", "http://a:1,b:2", "https://a, b"} {
		client, err := entityservice.New(target, "key")
		if err != nil {
			t.Errorf("%q: %v", target, err)
			continue
		}
		_ = client.Close()
	}
}

func TestSeveralHostsShareTheCalls(t *testing.T) {
	one, two := &scripted{}, &scripted{}
	client := newClient(t, "http://"+one.serve(t)+","+two.serve(t))
	for one.attempts() < 5 || two.attempts() < 5 {
		if _, err := client.Entities.GetEntity(t.Context(), &entityv1.GetEntityRequest{}); err != nil {
			t.Fatal(err)
		}
		if one.attempts()+two.attempts() > 1_000 {
			t.Fatalf("%d and %d calls", one.attempts(), two.attempts())
		}
	}
}

func TestHeadersSayWhoCalls(t *testing.T) {
	server := &scripted{}
	client := newClient(t, "http://"+server.serve(t), entityservice.WithSource("billing"))
	ctx := entityservice.WithActor(t.Context(), "user-7")
	if _, err := client.Entities.GetEntity(ctx, &entityv1.GetEntityRequest{}); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"authorization": "Bearer key", "x-actor-id": "user-7", "x-source": "billing"} {
		if got := server.headers.Get(key); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q", key, got)
		}
	}
	if _, err := client.Entities.GetEntity(t.Context(), &entityv1.GetEntityRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := server.headers.Get("x-actor-id"); got != nil {
		t.Errorf("without an actor: %q", got)
	}
}

func TestNobodyThereIsSaidAtTheDeadline(t *testing.T) {
	client := newClient(t, "http://127.0.0.1:1", entityservice.WithTimeout(300*time.Millisecond))
	began := time.Now()
	_, err := client.Entities.GetEntity(t.Context(), &entityv1.GetEntityRequest{})
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "connection refused") || time.Since(began) > 2*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
