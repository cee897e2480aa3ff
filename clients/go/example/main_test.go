package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"entityservice"
	entityv1 "entityservice/gen/entity/v1"
)

// The copy follows what happens while it watches and what happened while it was away.
func TestTheCopyFollows(t *testing.T) {
	target := os.Getenv("ENTITY_SERVICE_TARGET")
	if target == "" {
		t.Skip("needs the service: npm run test:go")
	}
	client, err := entityservice.New(target, os.Getenv("ENTITY_SERVICE_API_KEY"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	id := fmt.Sprintf("copied-%d", time.Now().UnixNano())
	// named writes the name of the entity, or creates it, and answers its id.
	named := func(name string) string {
		t.Helper()
		answer, err := client.Entities.UpdateEntity(t.Context(), &entityv1.UpdateEntityRequest{
			Lookup: entityservice.ByExternalID(id), AllowMissing: true,
			Entity: &entityv1.Entity{Type: entityv1.EntityType_ENTITY_TYPE_COMPANY, CountryCode: "AR", Name: name},
		})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetEntity().GetId()
	}
	file := filepath.Join(t.TempDir(), "copy.json")
	// runUntil runs the example until the copy has the name of the entity, none for "".
	runUntil := func(entityID, name string, meanwhile func()) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- run(ctx, []string{file}) }()
		meanwhile()
		for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			if kept, err := read(file); err == nil && kept.Position != "" && kept.Names[entityID] == name {
				break
			}
			if time.Since(began) > 20*time.Second {
				t.Errorf("the copy never had %q", name)
				break
			}
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
	}
	entityID := named("Listed S.A.")
	runUntil(entityID, "Listed S.A.", func() {})
	runUntil(entityID, "Watched S.A.", func() { named("Watched S.A.") })
	named("Meanwhile S.A.")
	runUntil(entityID, "Meanwhile S.A.", func() {})
	runUntil(entityID, "", func() {
		_, err := client.Entities.DeleteEntity(t.Context(), &entityv1.DeleteEntityRequest{
			Lookup: entityservice.ByID(entityID), Reason: "No longer a customer",
		})
		if err != nil {
			t.Error(err)
		}
	})
}
