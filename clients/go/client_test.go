package entityservice_test

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
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

func TestTLS(t *testing.T) {
	lender := httptest.NewTLSServer(nil)
	defer lender.Close()
	server := &scripted{}
	address := server.serve(t, grpc.Creds(credentials.NewServerTLSFromCert(&lender.TLS.Certificates[0])))
	believed := x509.NewCertPool()
	believed.AddCert(lender.Certificate())
	for _, target := range []string{"https://" + address, "https://" + address + "," + address} {
		client := newClient(t, target, entityservice.WithTLS(&tls.Config{RootCAs: believed}))
		if _, err := client.Entities.GetEntity(t.Context(), &entityv1.GetEntityRequest{}); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	stranger := newClient(t, "https://"+address, entityservice.WithTimeout(time.Second))
	_, err := stranger.Entities.GetEntity(t.Context(), &entityv1.GetEntityRequest{})
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate that nobody believes: %v", err)
	}
	if server.attempts() != 2 {
		t.Errorf("%d calls came", server.attempts())
	}
}

func TestTheLoggerIsToldOfAttempts(t *testing.T) {
	var said strings.Builder
	logger := slog.New(slog.NewTextHandler(&said, nil))
	server := &scripted{script: []error{writeConflict}}
	client := newClient(t, "http://"+server.serve(t), entityservice.WithLogger(logger))
	request := &entityv1.UpdateEntityRequest{Lookup: entityservice.ByExternalID("crm-1"), Reason: "nobody's business"}
	if _, err := client.Entities.UpdateEntity(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if text := said.String(); !strings.Contains(text, "/entity.v1.EntityService/UpdateEntity") || strings.Contains(text, "crm-1") || strings.Contains(text, "business") {
		t.Error(text)
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
