package entityservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	entityv1 "entityservice/gen/entity/v1"
)

// ErrPositionExpired says that the events behind a position are no longer all there: list again, and watch from the
// watch_position of the list.
var ErrPositionExpired = errors.New("entityservice: the position has expired: list again, and watch from the watch_position of the list")

// Watch sends the events behind request.Position as they are committed, and checkpoints between them; see
// EntityService.WatchEntities for what is promised. Where the stream ends, for a restart or because it was read too slowly, it
// goes on from the position of the last message, on any process, until the context ends or the loop is left.
//
// Store the position of a message with what was made of its event, in the same transaction if it can be.
//
// The last pair has an error and no message: [ErrPositionExpired], a refusal that would stay one (see [RefusalOf]), or that
// of the context.
func (c *Client) Watch(ctx context.Context, request *entityv1.WatchEntitiesRequest) iter.Seq2[*entityv1.WatchEntitiesResponse, error] {
	return func(yield func(*entityv1.WatchEntitiesResponse, error) bool) {
		from := proto.Clone(request).(*entityv1.WatchEntitiesRequest)
		failures := 0
		for {
			isLeft, err := c.watchOnce(ctx, from, func(message *entityv1.WatchEntitiesResponse) bool {
				from.Position, failures = message.GetPosition(), 0
				return yield(message, nil)
			})
			if isLeft {
				return
			}
			failures++
			if ctx.Err() == nil && goesOn(err) {
				pause := pauseOf(min(failures, maxAttempts), err)
				c.log.WarnContext(ctx, "watch goes on", "failures", failures, "pause", pause, "error", err)
				if wait(ctx, pause) {
					continue
				}
			}
			yield(nil, ending(ctx, err))
			return
		}
	}
}

// ending is the error that a watch ends with.
func ending(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case IsReason(err, entityv1.ErrorReason_ERROR_REASON_POSITION_EXPIRED):
		return fmt.Errorf("%w: %w", ErrPositionExpired, err)
	}
	return err
}

// watchOnce reads one stream to its end. isLeft: the reader wants no more.
func (c *Client) watchOnce(ctx context.Context, request *entityv1.WatchEntitiesRequest, read func(*entityv1.WatchEntitiesResponse) bool) (isLeft bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Entities.WatchEntities(ctx, request)
	if err != nil {
		return false, err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return false, err
		}
		if !read(message) {
			return true, nil
		}
	}
}

// goesOn tells whether a stream that ended so, while its context has not, can be had again from where it was.
func goesOn(err error) bool {
	if refusal, found := RefusalOf(err); found {
		switch refusal.Reason {
		case "WATCH_TOO_SLOW", "CANCELLED", "DEADLINE_EXCEEDED":
			return true
		}
		return refusal.Code == codes.Unavailable
	}
	switch status.Code(err) {
	case codes.Unavailable:
		return true
	case codes.ResourceExhausted, codes.Canceled, codes.Internal:
		// The other side reset the stream, for what was not read for 30 s or because it went away. Such an end of our own
		// making, like a message that is too large, is not called so.
		return strings.Contains(status.Convert(err).Message(), "RST_STREAM")
	}
	return errors.Is(err, io.EOF)
}
