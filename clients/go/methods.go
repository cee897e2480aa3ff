package entityservice

import (
	"crypto/rand"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	entityv1 "entityservice/gen/entity/v1"
)

// method is what the contract says of an RPC.
type method struct {
	// isRead: calling it twice is calling it once, and gRPC sends it again by the service config.
	isRead bool
	// isIdempotent: it writes, and doing it twice changes nothing more.
	isIdempotent bool
	// requestID is the field that makes a write safe to repeat, or nil.
	requestID protoreflect.FieldDescriptor
}

// methods are those of all services, by their full names ("/entity.v1.EntityService/GetEntity").
var methods = readMethods(
	entityv1.File_entity_v1_entity_service_proto,
	entityv1.File_entity_v1_activity_service_proto,
	entityv1.File_entity_v1_risk_matrix_service_proto,
	entityv1.File_entity_v1_webhook_service_proto,
	entityv1.File_entity_v1_organization_service_proto,
)

func readMethods(files ...protoreflect.FileDescriptor) map[string]method {
	read := map[string]method{}
	for _, file := range files {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				one := service.Methods().Get(j)
				level := one.Options().(*descriptorpb.MethodOptions).GetIdempotencyLevel()
				about := method{
					isRead:       level == descriptorpb.MethodOptions_NO_SIDE_EFFECTS,
					isIdempotent: level == descriptorpb.MethodOptions_IDEMPOTENT,
				}
				// ListEntityEvents has one too, as a filter.
				if !about.isRead && !one.IsStreamingClient() {
					about.requestID = one.Input().Fields().ByName("request_id")
				}
				read[fmt.Sprintf("/%s/%s", service.FullName(), one.Name())] = about
			}
		}
	}
	return read
}

// withRequestID is the request with a request_id of its own where it has none. The caller's stays as it is: whoever sends it
// once more means another call. Its values are shared, not copied.
func withRequestID(request any, field protoreflect.FieldDescriptor) any {
	message, ok := request.(proto.Message)
	if field == nil || !ok || message.ProtoReflect().Has(field) {
		return request
	}
	made := message.ProtoReflect().New()
	message.ProtoReflect().Range(func(one protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		made.Set(one, value)
		return true
	})
	made.Set(field, protoreflect.ValueOfString(newUUID()))
	return made.Interface()
}

func newUUID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
