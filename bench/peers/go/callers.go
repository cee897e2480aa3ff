package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// As the cache of the other peers has it: see callersOf of contract.ts.
const (
	goodFor     = 4 * time.Second
	badFor      = 1 * time.Second
	renewAfter  = goodFor * 3 / 4
	maxCallers  = 10_000
	maxKeyBytes = 256
)

const findKey = "select organization_id, id, scopes from find_api_key($1)"

// Who calls: the owner of an API key.
type caller struct {
	organizationID pgtype.UUID
	// As set_config takes it.
	organization string
	keyID        pgtype.UUID
	scopes       []string
}

type known struct {
	// Nil where the key is good for nothing.
	caller  *caller
	checked time.Time
}

func (k *known) age() time.Duration { return time.Since(k.checked) }

func (k *known) isFresh() bool {
	if k.caller == nil {
		return k.age() < badFor
	}
	return k.age() < goodFor
}

// The callers of API keys, remembered by the digest of the key for seconds; one lookup of a key at a time.
type callers struct {
	pool    *pgxpool.Pool
	mu      sync.RWMutex
	known   map[[sha256.Size]byte]*known
	lookups map[[sha256.Size]byte]*lookup
}

type lookup struct {
	done  chan struct{}
	found *known
	err   error
}

func newCallers(pool *pgxpool.Pool) *callers {
	return &callers{
		pool:    pool,
		known:   map[[sha256.Size]byte]*known{},
		lookups: map[[sha256.Size]byte]*lookup{},
	}
}

// The caller of the metadata, whose key must have the scope.
func (c *callers) of(ctx context.Context, scope string) (*caller, error) {
	secret, ok := bearerOf(ctx)
	if !ok {
		return nil, errUnauthenticated
	}
	found, err := c.find(ctx, sha256.Sum256([]byte(secret)))
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, errUnauthenticated
	}
	if !slices.Contains(found.scopes, scope) {
		return nil, status.Error(codes.PermissionDenied, "The API key has not the scope "+scope)
	}
	return found, nil
}

var errUnauthenticated = status.Error(codes.Unauthenticated, "The API key is unknown, expired or revoked")

func bearerOf(ctx context.Context) (string, bool) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) == 0 {
		return "", false
	}
	scheme, secret, found := strings.Cut(values[0], " ")
	secret = strings.TrimLeft(secret, " ")
	return secret, found && strings.EqualFold(scheme, "bearer") && isToken(secret)
}

func isToken(text string) bool {
	if text == "" || len(text) > maxKeyBytes {
		return false
	}
	for i := range len(text) {
		b := text[i]
		isLetterOrDigit := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		if !isLetterOrDigit && !strings.ContainsRune("._~+/=-", rune(b)) {
			return false
		}
	}
	return true
}

func (c *callers) find(ctx context.Context, digest [sha256.Size]byte) (*caller, error) {
	c.mu.RLock()
	found := c.known[digest]
	c.mu.RUnlock()
	if found == nil || !found.isFresh() {
		lookup := c.lookUp(digest)
		select {
		case <-lookup.done:
			if lookup.err != nil {
				return nil, lookup.err
			}
			return lookup.found.caller, nil
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	if found.caller != nil && found.age() >= renewAfter {
		c.lookUp(digest)
	}
	return found.caller, nil
}

// Looks the key up, or joins who does.
func (c *callers) lookUp(digest [sha256.Size]byte) *lookup {
	c.mu.Lock()
	defer c.mu.Unlock()
	if joined := c.lookups[digest]; joined != nil {
		return joined
	}
	begun := &lookup{done: make(chan struct{})}
	c.lookups[digest] = begun
	go func() {
		begun.found, begun.err = c.query(digest)
		c.mu.Lock()
		delete(c.lookups, digest)
		if begun.err == nil {
			if len(c.known) >= maxCallers {
				clear(c.known)
			}
			c.known[digest] = begun.found
		}
		c.mu.Unlock()
		close(begun.done)
	}()
	return begun
}

func (c *callers) query(digest [sha256.Size]byte) (*known, error) {
	ctx, cancel := context.WithTimeout(context.Background(), goodFor)
	defer cancel()
	found := &known{caller: &caller{}, checked: time.Now()}
	row := c.pool.QueryRow(ctx, findKey, digest[:])
	err := row.Scan(&found.caller.organizationID, &found.caller.keyID, &found.caller.scopes)
	if errors.Is(err, pgx.ErrNoRows) {
		return &known{checked: found.checked}, nil
	}
	if err != nil {
		return nil, internal(err)
	}
	found.caller.organization = found.caller.organizationID.String()
	return found, nil
}
