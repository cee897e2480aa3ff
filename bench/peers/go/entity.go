package main

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/valyala/fastjson"
	"google.golang.org/protobuf/types/known/timestamppb"

	entityv1 "entityservice/gen/entity/v1"
)

const entityColumns = `e.id, e.version, e.type, e.country_code, e.external_id, e.external_ids, e.name, e.tax_id,
	e.tax_id_check, e.status, e.nationality, e.risk_matrix_id, e.risk_score::text, e.entity_data, e.attributes,
	e.metadata, e.etag, e.created_at, e.updated_at, e.deleted_at`

// An entity as it is stored, and as callers see it.
type entity struct {
	id      pgtype.UUID
	version int64
	// As events call them.
	kind, status string
	// As JSON.
	attributes, metadata []byte
	message              *entityv1.Entity
}

var (
	types = map[string]entityv1.EntityType{
		"person":  entityv1.EntityType_ENTITY_TYPE_PERSON,
		"company": entityv1.EntityType_ENTITY_TYPE_COMPANY,
	}
	statuses = map[string]entityv1.EntityStatus{
		"pending":      entityv1.EntityStatus_ENTITY_STATUS_PENDING,
		"under_review": entityv1.EntityStatus_ENTITY_STATUS_UNDER_REVIEW,
		"active":       entityv1.EntityStatus_ENTITY_STATUS_ACTIVE,
		"inactive":     entityv1.EntityStatus_ENTITY_STATUS_INACTIVE,
		"suspended":    entityv1.EntityStatus_ENTITY_STATUS_SUSPENDED,
		"blocked":      entityv1.EntityStatus_ENTITY_STATUS_BLOCKED,
		"rejected":     entityv1.EntityStatus_ENTITY_STATUS_REJECTED,
	}
	checks = map[string]entityv1.TaxIdCheck{
		"valid":           entityv1.TaxIdCheck_TAX_ID_CHECK_VALID,
		"checksum_failed": entityv1.TaxIdCheck_TAX_ID_CHECK_CHECKSUM_FAILED,
		"unknown_format":  entityv1.TaxIdCheck_TAX_ID_CHECK_UNKNOWN_FORMAT,
	}
)

var parsers fastjson.ParserPool

// Reads a row of entityColumns.
func scanEntity(row pgx.Row, organization string) (*entity, error) {
	var (
		e                               entity
		m                               entityv1.Entity
		externalID, check               *string
		riskMatrix, etag                pgtype.UUID
		externalIDs, data               []byte
		createdAt, updatedAt, deletedAt pgtype.Timestamptz
	)
	err := row.Scan(&e.id, &e.version, &e.kind, &m.CountryCode, &externalID, &externalIDs, &m.Name, &m.TaxId,
		&check, &e.status, &m.Nationality, &riskMatrix, &m.RiskScore, &data, &e.attributes,
		&e.metadata, &etag, &createdAt, &updatedAt, &deletedAt)
	if err != nil {
		return nil, err
	}
	e.message = &m
	m.Id = e.id.String()
	m.OrganizationId = organization
	m.Type = types[e.kind]
	m.Status = statuses[e.status]
	m.Etag = etag.String()
	m.CreatedAt = timestamppb.New(createdAt.Time)
	m.UpdatedAt = timestamppb.New(updatedAt.Time)
	if externalID != nil {
		m.ExternalId = *externalID
	}
	if check != nil {
		m.TaxIdCheck = checks[*check]
	}
	if riskMatrix.Valid {
		text := riskMatrix.String()
		m.RiskMatrixId = &text
	}
	if deletedAt.Valid {
		m.DeletedAt = timestamppb.New(deletedAt.Time)
	}

	parser := parsers.Get()
	defer parsers.Put(parser)
	if m.ExternalIds, err = readExternalIDs(parser, externalIDs); err != nil {
		return nil, err
	}
	if m.EntityData, err = readEntityData(parser, m.Type, data); err != nil {
		return nil, err
	}
	if m.Attributes, err = readStruct(parser, e.attributes); err != nil {
		return nil, err
	}
	if m.Metadata, err = readStruct(parser, e.metadata); err != nil {
		return nil, err
	}
	return &e, nil
}

// They are stored as [id, type, whether it is the primary, when it was attached].
func readExternalIDs(parser *fastjson.Parser, text []byte) ([]*entityv1.ExternalId, error) {
	value, err := parser.ParseBytes(text)
	if err != nil {
		return nil, err
	}
	items, err := value.Array()
	if err != nil {
		return nil, err
	}
	ids := make([]*entityv1.ExternalId, len(items))
	for i, item := range items {
		parts, err := item.Array()
		if err != nil || len(parts) != 4 {
			return nil, fmt.Errorf("external_ids of an entity are not as expected: %w", err)
		}
		attachedAt, err := time.Parse(time.RFC3339, textOf(parts[3]))
		if err != nil {
			return nil, err
		}
		ids[i] = &entityv1.ExternalId{
			ExternalId: textOf(parts[0]),
			Type:       textOf(parts[1]),
			AttachedAt: timestamppb.New(attachedAt),
		}
		if parts[2].Type() == fastjson.TypeTrue {
			ids[i].Designation = entityv1.Designation_DESIGNATION_PRIMARY
		}
	}
	return ids, nil
}
