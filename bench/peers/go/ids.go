package main

import (
	"crypto/rand"
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// A UUID of version 7.
func newID() [16]byte {
	var id [16]byte
	rand.Read(id[6:])
	var now [8]byte
	binary.BigEndian.PutUint64(now[:], uint64(time.Now().UnixMilli()))
	copy(id[:6], now[2:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

func formatID(id [16]byte) string { return pgtype.UUID{Bytes: id, Valid: true}.String() }
