package entityservice

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	entityv1 "entityservice/gen/entity/v1"
)

// domain is that of the service's own errors.
const domain = "entity.v1"

// Refusal is what the service says of a call that it refused. It holds no value of the request.
type Refusal struct {
	Code    codes.Code
	Message string
	// Reason is a word to branch on, such as "DUPLICATE_EXTERNAL_ID". It never changes its meaning.
	Reason string
	// Metadata says what to do about it, such as the current etag or the missing scope.
	Metadata map[string]string
	// Violations are the fields at fault, as paths of the request.
	Violations []Violation
	// RetryAfter is when another attempt makes sense; 0 where the service does not say.
	RetryAfter time.Duration
}

// Violation is one field at fault.
type Violation struct {
	Field       string
	Description string
}

// RefusalOf reads the refusal in the error of a call, or in that of an item of a batch or an import:
// RefusalOf(status.ErrorProto(result.GetError())). It is false where the service gave none: the connection failed, say.
func RefusalOf(err error) (Refusal, bool) {
	said, ok := status.FromError(err)
	if !ok || said == nil {
		return Refusal{}, false
	}
	refusal, found := Refusal{Code: said.Code(), Message: said.Message()}, false
	for _, detail := range said.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() != domain {
				continue
			}
			found = true
			refusal.Reason, refusal.Metadata = detail.GetReason(), detail.GetMetadata()
		case *errdetails.BadRequest:
			for _, one := range detail.GetFieldViolations() {
				refusal.Violations = append(refusal.Violations, Violation{Field: one.GetField(), Description: one.GetDescription()})
			}
		case *errdetails.RetryInfo:
			refusal.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	if refusal.RetryAfter == 0 {
		refusal.RetryAfter, _ = time.ParseDuration(refusal.Metadata["retry_after_ms"] + "ms")
	}
	return refusal, found
}

// IsReason tells whether the service refused a call for one of the reasons.
func IsReason(err error, reasons ...entityv1.ErrorReason) bool {
	refusal, found := RefusalOf(err)
	return found && slices.ContainsFunc(reasons, func(reason entityv1.ErrorReason) bool {
		return strings.TrimPrefix(reason.String(), "ERROR_REASON_") == refusal.Reason
	})
}
