package main

import (
	"context"
	"errors"
	"log"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	entityv1 "entityservice/gen/entity/v1"
)

const (
	// For row level security; until the end of the transaction, which that of a batch is too.
	setOrganization = "select set_config('app.organization_id', $1, true)"

	findEntity = "select " + entityColumns + `
		from external_id x join entity e on e.organization_id = x.organization_id and e.id = x.entity_id
		where x.organization_id = $1 and x.external_id = $2`

	lockEntity = findEntity + " for no key update of e"

	// A document that nobody changed is not sent.
	updateEntity = `update entity set version = $3, name = $4, status = $5, attributes = coalesce($6, attributes),
		metadata = coalesce($7, metadata), etag = $8, updated_at = $9 where organization_id = $1 and id = $2`

	insertEvent = `insert into entity_event (organization_id, id, entity_id, entity_version, entity_type, type,
			external_id, external_ids, updated_fields, previous_values, new_values, actor, principal, source, reason,
			recorded_at)
		values ($1, $2, $3, $4, $5, 'ATTRIBUTE_CHANGED', $6, $7, $8, $9, $10, $11, $12, 'api', $13, $14)`
)

type entityServer struct {
	entityv1.UnimplementedEntityServiceServer
	pool    *pgxpool.Pool
	callers *callers
}

func (s *entityServer) GetEntity(ctx context.Context, request *entityv1.GetEntityRequest) (*entityv1.GetEntityResponse, error) {
	caller, err := s.callers.of(ctx, "entities:read")
	if err != nil {
		return nil, err
	}
	if request.ReadMask != nil {
		return nil, errNotServed
	}
	externalID, err := parseLookup(request.Lookup)
	if err != nil {
		return nil, err
	}
	var batch pgx.Batch
	batch.Queue(setOrganization, caller.organization)
	batch.Queue(findEntity, caller.organizationID, externalID)
	results := s.pool.SendBatch(ctx, &batch)
	defer results.Close()
	found, err := readEntity(results, caller)
	if err != nil {
		return nil, err
	}
	if err := results.Close(); err != nil {
		return nil, internal(err)
	}
	return &entityv1.GetEntityResponse{Entity: found.message}, nil
}

func (s *entityServer) UpdateEntity(ctx context.Context, request *entityv1.UpdateEntityRequest) (*entityv1.UpdateEntityResponse, error) {
	caller, err := s.callers.of(ctx, "entities:write")
	if err != nil {
		return nil, err
	}
	patch, err := parseUpdate(request)
	if err != nil {
		return nil, err
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, internal(err)
	}
	// One that is still in a transaction is closed by the pool.
	defer conn.Release()

	before, err := lock(ctx, conn, caller, patch.externalID)
	if err != nil {
		return nil, rollBack(ctx, conn, err)
	}
	change, err := decide(before, patch)
	if err != nil {
		return nil, rollBack(ctx, conn, err)
	}
	created := false
	if change == nil {
		if err := rollBack(ctx, conn, nil); err != nil {
			return nil, err
		}
		return &entityv1.UpdateEntityResponse{Entity: before.message, PreviousEntity: before.message, Created: &created}, nil
	}
	if err := write(ctx, conn, caller, before, change, patch.reason); err != nil {
		return nil, rollBack(ctx, conn, err)
	}
	return &entityv1.UpdateEntityResponse{
		Entity:         change.after,
		PreviousEntity: before.message,
		UpdatedFields:  change.updatedFields,
		Created:        &created,
	}, nil
}

// The first round trip of an update.
func lock(ctx context.Context, conn *pgxpool.Conn, caller *caller, externalID string) (*entity, error) {
	var batch pgx.Batch
	batch.Queue("begin")
	batch.Queue(setOrganization, caller.organization)
	batch.Queue(lockEntity, caller.organizationID, externalID)
	results := conn.SendBatch(ctx, &batch)
	defer results.Close()
	if _, err := results.Exec(); err != nil {
		return nil, internal(err)
	}
	locked, err := readEntity(results, caller)
	if err != nil {
		return nil, err
	}
	if err := results.Close(); err != nil {
		return nil, internal(err)
	}
	return locked, nil
}

// The second one: the entity, its event and the commit.
func write(ctx context.Context, conn *pgxpool.Conn, caller *caller, before *entity, c *change, reason string) error {
	after := c.after
	externalIDs := make([]string, len(after.ExternalIds))
	for i, id := range after.ExternalIds {
		externalIDs[i] = id.ExternalId
	}
	actor := caller.keyID.String()
	if named := metadata.ValueFromIncomingContext(ctx, "x-actor-id"); len(named) > 0 {
		actor = named[0]
	}
	var batch pgx.Batch
	batch.Queue(updateEntity, caller.organizationID, before.id, c.version, after.Name, c.status, c.attributes,
		c.metadata, pgtype.UUID{Bytes: c.etag, Valid: true}, c.at)
	batch.Queue(insertEvent, caller.organizationID, pgtype.UUID{Bytes: newID(), Valid: true}, before.id, c.version,
		before.kind, orNull(after.ExternalId), externalIDs, c.updatedFields, c.previousValues, c.newValues, actor,
		caller.keyID, orNull(reason), c.at)
	batch.Queue("commit")
	if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
		return internal(err)
	}
	return nil
}

// The results of setOrganization, and of findEntity or lockEntity.
func readEntity(results pgx.BatchResults, caller *caller) (*entity, error) {
	if _, err := results.Exec(); err != nil {
		return nil, internal(err)
	}
	found, err := scanEntity(results.QueryRow(), caller.organization)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, status.Error(codes.NotFound, "Entity not found")
	}
	if err != nil {
		return nil, internal(err)
	}
	return found, nil
}

// Ends a transaction that changes nothing. Answers the reason, or why that failed.
func rollBack(ctx context.Context, conn *pgxpool.Conn, reason error) error {
	if _, err := conn.Exec(ctx, "rollback"); err != nil && reason == nil {
		return internal(err)
	}
	return reason
}

func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func internal(err error) error {
	if contextError := status.FromContextError(err); contextError.Code() != codes.Unknown {
		return contextError.Err()
	}
	log.Print(err)
	return status.Error(codes.Internal, "internal error")
}
