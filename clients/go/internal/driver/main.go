// The driver calls as an application would, at a fixed rate, and reports what it had to see: the client's part of the
// measurements in test/clients/restarts.ts, whose protocol it follows.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"entityservice"
	entityv1 "entityservice/gen/entity/v1"
)

type config struct {
	Addresses []string `json:"addresses"`
	APIKey    string   `json:"apiKey"`
	Seconds   int      `json:"seconds"`
	Rate      int      `json:"rate"`
	Entities  []string `json:"entities"`
}

type report struct {
	Sent    int            `json:"sent"`
	Writes  int            `json:"writes"`
	Failed  int            `json:"failed"`
	Retried int64          `json:"retried"`
	Errors  map[string]int `json:"errors"`
	MaxMs   int64          `json:"maxMs"`
}

// attempts counts what goes over the wire.
type attempts struct{ count atomic.Int64 }

func (a *attempts) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (a *attempts) HandleRPC(_ context.Context, event stats.RPCStats) {
	if _, isBegin := event.(*stats.Begin); isBegin {
		a.count.Add(1)
	}
}
func (a *attempts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (a *attempts) HandleConn(context.Context, stats.ConnStats)                       {}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	line, err := bufio.NewReader(os.Stdin).ReadBytes('\n')
	if err != nil {
		return err
	}
	var given config
	if err := json.Unmarshal(line, &given); err != nil {
		return err
	}
	wire := &attempts{}
	client, err := entityservice.New("http://"+strings.Join(given.Addresses, ","), given.APIKey,
		entityservice.WithDialOptions(grpc.WithStatsHandler(wire)))
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()

	made := report{Errors: map[string]int{}}
	var mutex sync.Mutex
	var calls sync.WaitGroup
	began := time.Now()
	for index := range given.Rate * given.Seconds {
		time.Sleep(time.Until(began.Add(time.Duration(index) * time.Second / time.Duration(given.Rate))))
		made.Sent++
		if index%2 == 0 {
			made.Writes++
		}
		calls.Go(func() {
			began := time.Now()
			err := call(client, given.Entities, index)
			mutex.Lock()
			defer mutex.Unlock()
			made.MaxMs = max(made.MaxMs, time.Since(began).Milliseconds())
			if err != nil {
				made.Failed++
				made.Errors[why(err)]++
			}
		})
	}
	calls.Wait()
	made.Retried = wire.count.Load() - int64(made.Sent)
	return json.NewEncoder(os.Stdout).Encode(made)
}

// call is a write, or a read, every second time.
func call(client *entityservice.Client, entities []string, index int) error {
	n := index / 2
	lookup := entityservice.ByExternalID(entities[n%len(entities)])
	if index%2 == 1 {
		_, err := client.Entities.GetEntity(context.Background(), &entityv1.GetEntityRequest{Lookup: lookup})
		return err
	}
	attributes, err := structpb.NewStruct(map[string]any{"write": fmt.Sprint(n)})
	if err != nil {
		return err
	}
	_, err = client.Entities.UpdateEntity(context.Background(), &entityv1.UpdateEntityRequest{
		Lookup: lookup, Entity: &entityv1.Entity{Attributes: attributes},
	})
	return err
}

func why(err error) string {
	if refusal, found := entityservice.RefusalOf(err); found {
		return refusal.Reason
	}
	said := status.Convert(err)
	return said.Code().String() + " " + said.Message()
}
