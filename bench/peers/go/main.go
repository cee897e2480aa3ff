// The peer that a Go team that cares would write: grpc-go with the marshalling of vtprotobuf, pgx with its pool, its cache
// of prepared statements and its batches. A get is one round trip, an update two.
package main

import (
	"context"
	"log"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"

	entityv1 "entityservice/gen/entity/v1"
)

// The same for all peers: see contract.ts.
const (
	poolSize        = 10
	maxMessageBytes = 1024 * 1024
	// So little lives here that the default would collect all the time, for a tenth of the CPU.
	gcPercent = 400
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	debug.SetGCPercent(gcPercent)
	pool, err := openPool(ctx)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		return err
	}
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		// They keep their grown stacks from call to call; where all are busy a call has a goroutine of its own.
		grpc.NumStreamWorkers(uint32(runtime.GOMAXPROCS(0))),
	)
	entityv1.RegisterEntityServiceServer(server, &entityServer{pool: pool, callers: newCallers(pool)})
	context.AfterFunc(ctx, server.Stop)
	return server.Serve(listener)
}

func openPool(ctx context.Context) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(os.Getenv("DATABASE_PORT"), 10, 16)
	if err != nil {
		return nil, err
	}
	config.MinConns, config.MaxConns = poolSize, poolSize
	config.ConnConfig.Host = os.Getenv("DATABASE_HOST")
	config.ConnConfig.Port = uint16(port)
	config.ConnConfig.Database = os.Getenv("DATABASE_NAME")
	config.ConnConfig.User = os.Getenv("DATABASE_USER")
	config.ConnConfig.Fallbacks, config.ConnConfig.TLSConfig = nil, nil
	return pgxpool.NewWithConfig(ctx, config)
}
