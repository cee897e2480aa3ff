package entityservice

import (
	"context"
	"time"

	"google.golang.org/grpc"
)

type actorKey struct{}

// WithActor says on whose behalf the calls of the context are made: it becomes the `actor` of events. By default that is the
// API key itself.
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// headers are what every call has, streams too.
type headers struct {
	apiKey string
	source string
	isTLS  bool
}

func (h headers) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	made := map[string]string{"authorization": "Bearer " + h.apiKey}
	if h.source != "" {
		made["x-source"] = h.source
	}
	if actor, ok := ctx.Value(actorKey{}).(string); ok && actor != "" {
		made["x-actor-id"] = actor
	}
	return made, nil
}

// RequireTransportSecurity is that of the target: who writes http:// sends the key in clear text, knowingly.
func (h headers) RequireTransportSecurity() bool { return h.isTLS }

// deadline gives one to a call that has none, all attempts together.
func deadline(timeout time.Duration) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, reply any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		if _, has := ctx.Deadline(); !has && timeout > 0 {
			limited, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			ctx = limited
		}
		return invoke(ctx, method, request, reply, connection, options...)
	}
}
