package entityservice_test

import (
	"os"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	entityv1 "entityservice/gen/entity/v1"
)

// What a client of any language does that has the service config and nothing else of ours.
func plainClient(t *testing.T, server *scripted) *grpc.ClientConn {
	t.Helper()
	config, err := os.ReadFile("service-config.json")
	if err != nil {
		t.Fatal(err)
	}
	connection, err := grpc.NewClient("dns:///"+server.serve(t), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(), grpc.WithDefaultServiceConfig(string(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

func TestTheServiceConfigSendsReadsAgain(t *testing.T) {
	server := &scripted{script: repeat(lost, 4)}
	client := entityv1.NewEntityServiceClient(plainClient(t, server))
	if _, err := client.GetEntity(t.Context(), &entityv1.GetEntityRequest{}); err != nil || server.attempts() != 5 {
		t.Errorf("%d attempts, %v", server.attempts(), err)
	}
}

func TestTheServiceConfigSendsNoWriteAgain(t *testing.T) {
	server := &scripted{script: repeat(lost, 4)}
	client := entityv1.NewEntityServiceClient(plainClient(t, server))
	_, err := client.UpdateEntity(t.Context(), &entityv1.UpdateEntityRequest{})
	if status.Code(err) != codes.Unavailable || server.attempts() != 1 {
		t.Errorf("%d attempts, %v", server.attempts(), err)
	}
}

func TestTheServiceConfigSendsNothingElseAgain(t *testing.T) {
	server := &scripted{script: repeat(status.Error(codes.NotFound, ""), 4)}
	client := entityv1.NewEntityServiceClient(plainClient(t, server))
	_, err := client.GetEntity(t.Context(), &entityv1.GetEntityRequest{})
	if status.Code(err) != codes.NotFound || server.attempts() != 1 {
		t.Errorf("%d attempts, %v", server.attempts(), err)
	}
}
