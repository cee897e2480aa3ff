package entityservice

import (
	"slices"
	"strings"
	"testing"
)

// Who adds a write without a request_id decides here that its caller has to look what became of it.
func TestWritesThatAreNotSentAgain(t *testing.T) {
	var unsafe []string
	for name, about := range methods {
		if !about.isRead && !about.isIdempotent && about.requestID == nil {
			unsafe = append(unsafe, name[strings.LastIndex(name, "/")+1:])
		}
	}
	slices.Sort(unsafe)
	want := []string{"CreateApiKey", "CreateWebhookEndpoint", "ImportEntities", "RecheckTaxIds", "RotateWebhookSecret"}
	if !slices.Equal(unsafe, want) {
		t.Errorf("without a request_id: %q", unsafe)
	}
	if len(methods) < 40 {
		t.Errorf("only %d methods are known", len(methods))
	}
}
