package entityservice

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// So often a call is sent, at most.
	maxAttempts = 6
	firstPause  = 50 * time.Millisecond
	longestWait = 2 * time.Second
	// As the service config has it for reads: that many at once, and a tenth of what succeeds.
	maxTokens  = 250
	tokenRatio = 0.1
)

// writes sends writes again. Reads after UNAVAILABLE are not its business: gRPC does it, by the service config.
type writes struct {
	budget budget
	log    *slog.Logger
}

func newWrites(log *slog.Logger) *writes { return &writes{budget: budget{tokens: maxTokens}, log: log} }

func (w *writes) sendAgain(ctx context.Context, name string, request, reply any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	about := methods[name]
	request = withRequestID(request, about.requestID)
	for attempt := 1; ; attempt++ {
		err := invoke(ctx, name, request, reply, connection, options...)
		if err == nil {
			w.budget.succeed()
			return nil
		}
		if attempt == maxAttempts || !maySendAgain(about, err) || !w.budget.take() {
			return err
		}
		pause := pauseOf(attempt, err)
		w.log.WarnContext(ctx, "call is sent again", "method", name, "attempt", attempt, "pause", pause, "error", err)
		if !wait(ctx, pause) {
			return err
		}
	}
}

// maySendAgain tells whether another attempt can succeed, and cannot do anything twice.
func maySendAgain(about method, err error) bool {
	refusal, _ := RefusalOf(err)
	switch refusal.Reason {
	case "WRITE_CONFLICT":
		return true
	case "OVERLOADED", "DATABASE_UNAVAILABLE":
		return !about.isRead // nothing was written, says the service
	}
	// COMMIT_UNKNOWN, or a connection that was lost on the way: it is done or it is not, and the request_id answers which.
	return status.Code(err) == codes.Unavailable && (about.requestID != nil || about.isIdempotent)
}

// pauseOf is how long to wait before the next attempt: what the service asks for and up to a half more, so that those who
// were refused together do not come back together; or any time up to one that doubles.
func pauseOf(attempt int, err error) time.Duration {
	if refusal, _ := RefusalOf(err); refusal.RetryAfter > 0 {
		return refusal.RetryAfter + rand.N(refusal.RetryAfter/2+1)
	}
	return rand.N(min(firstPause<<attempt, longestWait))
}

// wait is false where the deadline would be over by then: the error at hand says more than that one would.
func wait(ctx context.Context, pause time.Duration) bool {
	if end, has := ctx.Deadline(); has && time.Until(end) <= pause {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// budget is what keeps attempts from making an overload worse.
type budget struct {
	mutex  sync.Mutex
	tokens float64
}

func (b *budget) succeed() {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.tokens = min(b.tokens+tokenRatio, maxTokens)
}

func (b *budget) take() bool {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
