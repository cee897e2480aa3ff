package main

import (
	"maps"
	"slices"
	"time"

	structvt "github.com/planetscale/vtprotobuf/types/known/structpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	entityv1 "entityservice/gen/entity/v1"
)

// What an update asks for, checked. Absent is unchanged.
type patch struct {
	externalID string
	name       string
	// As the database calls it.
	status     string
	attributes *structpb.Struct
	metadata   *structpb.Struct
	reason     string
	etag       string
}

// What an update makes of an entity.
type change struct {
	after         *entityv1.Entity
	updatedFields []string
	// As JSON; the documents are nil where they are unchanged.
	attributes, metadata      []byte
	previousValues, newValues []byte
	status                    string
	version                   int64
	etag                      [16]byte
	at                        time.Time
}

var restricted = []string{"blocked", "suspended", "rejected"}

var errNotServed = status.Error(codes.Unimplemented, "The peer serves what is measured")

func parseLookup(lookup *entityv1.EntityLookup) (string, error) {
	by, ok := lookup.GetBy().(*entityv1.EntityLookup_ExternalId)
	if !ok {
		return "", errNotServed
	}
	externalID := trim(by.ExternalId)
	if externalID == "" {
		return "", invalid("lookup.external_id", "must not be blank")
	}
	if problem := textProblem(externalID, maxExternalID, identifierText); problem != "" {
		return "", invalid("lookup.external_id", problem)
	}
	return externalID, nil
}

// What is not measured is refused: everything but a name, a status and the two maps, without a mask.
func parseUpdate(request *entityv1.UpdateEntityRequest) (*patch, error) {
	wanted := request.GetEntity()
	if request.UpdateMask != nil || request.AllowMissing || request.RequestId != "" || request.ValidateOnly ||
		request.OccurredAt != nil || !isServed(wanted) {
		return nil, errNotServed
	}
	externalID, err := parseLookup(request.Lookup)
	if err != nil {
		return nil, err
	}
	p := &patch{
		externalID: externalID,
		reason:     trim(request.Reason),
		etag:       request.Etag,
		name:       trim(wanted.GetName()),
		attributes: wanted.GetAttributes(),
		metadata:   wanted.GetMetadata(),
	}
	if wanted.GetName() != "" {
		if problem := textProblem(p.name, maxName, nameText); problem != "" {
			return nil, invalid("entity.name", problem)
		}
	}
	if wanted.GetStatus() != entityv1.EntityStatus_ENTITY_STATUS_UNSPECIFIED {
		if p.status = nameOf(wanted.GetStatus()); p.status == "" {
			return nil, invalid("entity.status", "is not a value of its enum")
		}
	}
	if problem := textProblem(p.reason, maxReason, freeText); problem != "" {
		return nil, invalid("reason", problem)
	}
	if problem := structProblem(p.attributes.GetFields(), 1); problem != "" {
		return nil, invalid("entity.attributes", problem)
	}
	if problem := structProblem(p.metadata.GetFields(), 1); problem != "" {
		return nil, invalid("entity.metadata", problem)
	}
	return p, nil
}

func isServed(e *entityv1.Entity) bool {
	return e == nil || e.Id == "" && e.OrganizationId == "" && e.ExternalId == "" && len(e.ExternalIds) == 0 &&
		e.Type == 0 && e.CountryCode == "" && e.TaxId == nil && e.TaxIdCheck == 0 && e.Nationality == nil &&
		e.RiskMatrixId == nil && e.RiskScore == nil && e.EntityData == nil && e.Etag == "" &&
		e.CreatedAt == nil && e.UpdatedAt == nil && e.DeletedAt == nil
}

func nameOf(wanted entityv1.EntityStatus) string {
	for name, value := range statuses {
		if value == wanted {
			return name
		}
	}
	return ""
}

// The rule: what the patch makes of the entity, or nil where it changes nothing.
func decide(before *entity, p *patch) (*change, error) {
	old := before.message
	if p.etag != "" && p.etag != old.Etag {
		return nil, status.Error(codes.Aborted,
			"The entity has changed since it was read: read it again, then retry")
	}
	if old.DeletedAt != nil {
		return nil, status.Error(codes.FailedPrecondition, "The entity is deleted: UndeleteEntity brings it back")
	}
	c := &change{status: before.status, version: before.version + 1, etag: newID()}
	now := &entityv1.Entity{
		Id: old.Id, OrganizationId: old.OrganizationId, ExternalId: old.ExternalId, ExternalIds: old.ExternalIds,
		Type: old.Type, CountryCode: old.CountryCode, Name: old.Name, TaxId: old.TaxId, TaxIdCheck: old.TaxIdCheck,
		Status: old.Status, Nationality: old.Nationality, RiskMatrixId: old.RiskMatrixId, RiskScore: old.RiskScore,
		EntityData: old.EntityData, Attributes: old.Attributes, Metadata: old.Metadata,
		Etag: formatID(c.etag), CreatedAt: old.CreatedAt,
	}
	c.after = now
	c.previousValues, c.newValues = append(make([]byte, 0, 512), '{'), append(make([]byte, 0, 512), '{')
	if p.name != "" && p.name != old.Name {
		now.Name = p.name
		c.tell("name", appendText(nil, old.Name), appendText(nil, now.Name))
	}
	if p.status != "" && p.status != before.status {
		if p.status == "pending" {
			return nil, invalid("entity.status", "PENDING can be given at creation only")
		}
		if slices.Contains(restricted, p.status) && p.reason == "" {
			return nil, status.Error(codes.InvalidArgument,
				"Changing status to '"+p.status+"' requires a reason for audit purposes.")
		}
		c.status, now.Status = p.status, statuses[p.status]
		c.tell("status", appendText(nil, before.status), appendText(nil, p.status))
	}
	var err error
	if now.Attributes, c.attributes, err = c.merge("attributes", before.attributes, old.Attributes, p.attributes); err != nil {
		return nil, err
	}
	if now.Metadata, c.metadata, err = c.merge("metadata", before.metadata, old.Metadata, p.metadata); err != nil {
		return nil, err
	}
	if len(c.updatedFields) == 0 {
		return nil, nil
	}
	c.previousValues, c.newValues = append(c.previousValues, '}'), append(c.newValues, '}')
	c.at = time.Now().Truncate(time.Microsecond)
	if earliest := old.UpdatedAt.AsTime().Add(time.Microsecond); c.at.Before(earliest) {
		c.at = earliest
	}
	now.UpdatedAt = timestamppb.New(c.at)
	return c, nil
}

// Key by key; null removes one. Answers the old map and no JSON where nothing changes.
func (c *change) merge(field string, text []byte, old, wanted *structpb.Struct) (*structpb.Struct, []byte, error) {
	if wanted == nil {
		return old, nil, nil
	}
	fields := make(map[string]*structpb.Value, len(old.GetFields())+len(wanted.Fields))
	maps.Copy(fields, old.GetFields())
	isChanged := false
	for key, value := range wanted.Fields {
		there, isThere := fields[key]
		if _, isNull := value.GetKind().(*structpb.Value_NullValue); isNull {
			delete(fields, key)
			isChanged = isChanged || isThere
		} else {
			fields[key] = value
			isChanged = isChanged || !isThere || !(*structvt.Value)(there).EqualVT((*structvt.Value)(value))
		}
	}
	if !isChanged {
		return old, nil, nil
	}
	if len(fields) > maxKeys {
		return nil, nil, invalid("entity."+field, "after the merge, must not have more than 200 keys")
	}
	merged := appendFields(make([]byte, 0, 2*len(text)+64), fields)
	if len(merged) > maxStructBytes {
		return nil, nil, invalid("entity."+field, "after the merge, must not be larger than 65536 bytes as JSON")
	}
	if len(old.GetFields()) == 0 {
		text = nil
	}
	if len(fields) == 0 {
		c.tell(field, text, []byte("null"))
		return nil, merged, nil
	}
	c.tell(field, text, merged)
	return &structpb.Struct{Fields: fields}, merged, nil
}

// What the event says of a field: its values as JSON, the old one nil where it was unset.
func (c *change) tell(field string, old, now []byte) {
	if old != nil {
		c.previousValues = appendMember(c.previousValues, field, old)
	}
	c.newValues = appendMember(c.newValues, field, now)
	c.updatedFields = append(c.updatedFields, field)
}

func appendMember(object []byte, name string, value []byte) []byte {
	if len(object) > 1 {
		object = append(object, ',')
	}
	object = append(appendText(object, name), ':')
	return append(object, value...)
}
