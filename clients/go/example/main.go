// Keeps a copy of all entities in a file: lists them once, then follows what happens, over restarts of the service and its
// own. `go run ./example copy.json`, with the key in ENTITY_SERVICE_API_KEY.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"entityservice"
	entityv1 "entityservice/gen/entity/v1"
)

// copied is what is stored: the position in the same write as what was made of the events before it.
type copied struct {
	Position string            `json:"position"`
	Names    map[string]string `json:"names"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: example FILE")
	}
	target := os.Getenv("ENTITY_SERVICE_TARGET")
	if target == "" {
		target = "http://127.0.0.1:50051"
	}
	client, err := entityservice.New(target, os.Getenv("ENTITY_SERVICE_API_KEY"))
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()

	kept, err := read(args[0])
	if err != nil {
		return err
	}
	for {
		if kept.Position == "" {
			if kept, err = list(ctx, client); err != nil {
				return err
			}
			fmt.Printf("%d entities\n", len(kept.Names))
		}
		err := follow(ctx, client, kept, args[0])
		if !errors.Is(err, entityservice.ErrPositionExpired) {
			return err
		}
		kept.Position = ""
	}
}

// list reads all entities, and where to watch from: that of the first page misses nothing that the pages do not show.
func list(ctx context.Context, client *entityservice.Client) (copied, error) {
	kept := copied{Names: map[string]string{}}
	request := &entityv1.ListEntitiesRequest{PageSize: 1000}
	for {
		page, err := client.Entities.ListEntities(ctx, request)
		if err != nil {
			return copied{}, err
		}
		for _, entity := range page.GetEntities() {
			kept.Names[entity.GetId()] = entity.GetName()
		}
		kept.Position = page.GetWatchPosition()
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return kept, nil
		}
	}
}

func follow(ctx context.Context, client *entityservice.Client, kept copied, file string) error {
	for message, err := range client.Watch(ctx, &entityv1.WatchEntitiesRequest{Position: kept.Position}) {
		if err != nil {
			return err
		}
		kept.Position = message.GetPosition()
		if event := message.GetEvent(); event != nil {
			fmt.Printf("%s %s, version %d\n", event.GetEvent(), event.GetEntityId(), event.GetEntityVersion())
			if err := refresh(ctx, client, kept, event.GetEntityId()); err != nil {
				return err
			}
		}
		if err := write(file, kept); err != nil {
			return err
		}
	}
	return nil
}

// refresh reads one entity as it is now: nothing has to be known of what the types of events mean.
func refresh(ctx context.Context, client *entityservice.Client, kept copied, id string) error {
	now, err := client.Entities.GetEntity(ctx, &entityv1.GetEntityRequest{Lookup: entityservice.ByID(id)})
	if err != nil {
		return err
	}
	delete(kept.Names, id) // where it was deleted or merged it stays away
	if entity := now.GetEntity(); entity.GetDeletedAt() == nil {
		kept.Names[entity.GetId()] = entity.GetName()
	}
	return nil
}

func read(file string) (copied, error) {
	kept := copied{Names: map[string]string{}}
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return kept, nil
	}
	if err != nil {
		return kept, err
	}
	return kept, json.Unmarshal(text, &kept)
}

// write replaces the file at once: a crash leaves the old one or the new one.
func write(file string, kept copied) error {
	text, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
