// Package entityservice is the client of EntityService, the system of record for persons and companies.
//
//	client, err := entityservice.New("http://127.0.0.1:50051", apiKey)
//	answer, err := client.Entities.GetEntity(ctx, &entityv1.GetEntityRequest{
//		Lookup: entityservice.ByExternalID("crm-8842"),
//	})
//
// A call has a deadline, and is sent again where that is safe: a read after any UNAVAILABLE, a write under one
// request_id, which the client makes where the request has none. See [New].
package entityservice

import (
	"crypto/tls"
	_ "embed"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	entityv1 "entityservice/gen/entity/v1"
)

// serviceConfig tells gRPC which calls it may send again by itself: reads. It is that of all languages.
//
//go:embed service-config.json
var serviceConfig string

const (
	defaultTimeout = 10 * time.Second
	// What the service sends at most in one message; pages end before 3 MiB, batches before 3.5.
	maxReceiveBytes = 8 << 20
	// A server that says nothing any more ends a watch too, which has no deadline.
	pingEvery = 20 * time.Second
	pingLimit = 10 * time.Second
)

// reconnect is how long a connection that could not be had is left alone. gRPC's own goes up to two minutes; a process of
// the service is back within seconds.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
	MinConnectTimeout: 5 * time.Second,
}

// Client has the clients of all services, over the same connections. It is safe for concurrent use: make one, and keep it.
type Client struct {
	Entities      entityv1.EntityServiceClient
	Activity      entityv1.ActivityServiceClient
	RiskMatrices  entityv1.RiskMatrixServiceClient
	Webhooks      entityv1.WebhookServiceClient
	Organizations entityv1.OrganizationServiceClient

	connection *grpc.ClientConn
	log        *slog.Logger
}

// New makes a client. It connects at the first call.
//
// The target says how: "http://host:port" in clear text, "https://host" with TLS. A name with several addresses is
// balanced over all of them, and so are several hosts: "http://10.0.0.1:50051,10.0.0.2:50051".
//
// Every unary call ends within 10 s unless its context has a deadline, which then counts alone (see [WithTimeout]).
// Reads are sent again after UNAVAILABLE, writes also after WRITE_CONFLICT and COMMIT_UNKNOWN, always under the same
// request_id; both after the delay that the service asks for, and never more than a tenth of what succeeds.
func New(target, apiKey string, options ...Option) (*Client, error) {
	if apiKey == "" {
		return nil, errors.New("entityservice: the API key is empty")
	}
	at, err := parseTarget(target)
	if err != nil {
		return nil, err
	}
	settings := settings{timeout: defaultTimeout, log: slog.New(slog.DiscardHandler)}
	for _, option := range options {
		option(&settings)
	}
	transport := insecure.NewCredentials()
	if at.isTLS {
		transport = credentials.NewTLS(settings.tls)
	}
	dial := append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithPerRPCCredentials(headers{apiKey: apiKey, source: settings.source, isTLS: at.isTLS}),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithConnectParams(reconnect),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingLimit, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceiveBytes)),
		grpc.WithChainUnaryInterceptor(deadline(settings.timeout), newWrites(settings.log).sendAgain),
		grpc.WithResolvers(at.resolvers...),
	}, settings.dial...)
	connection, err := grpc.NewClient(at.name, dial...)
	if err != nil {
		return nil, err
	}
	return &Client{
		Entities:      entityv1.NewEntityServiceClient(connection),
		Activity:      entityv1.NewActivityServiceClient(connection),
		RiskMatrices:  entityv1.NewRiskMatrixServiceClient(connection),
		Webhooks:      entityv1.NewWebhookServiceClient(connection),
		Organizations: entityv1.NewOrganizationServiceClient(connection),
		connection:    connection,
		log:           settings.log,
	}, nil
}

// Close ends the connections, and with them every call that has not ended.
func (c *Client) Close() error { return c.connection.Close() }

type settings struct {
	timeout time.Duration
	source  string
	tls     *tls.Config
	log     *slog.Logger
	dial    []grpc.DialOption
}

// Option changes how a [Client] calls.
type Option func(*settings)

// WithTimeout sets how long a unary call may take, all attempts together, where its context has no deadline. With 0 the service
// alone ends it, most calls after 10 s, and a call that finds no connection waits for one for ever. Streams have no deadline
// but that of their context.
func WithTimeout(timeout time.Duration) Option { return func(s *settings) { s.timeout = timeout } }

// WithSource names the system that calls, which becomes the `source` of events. By default it is "api".
func WithSource(source string) Option { return func(s *settings) { s.source = source } }

// WithTLS sets the certificates to present and to believe, for an https target. By default those of the system are believed.
func WithTLS(config *tls.Config) Option { return func(s *settings) { s.tls = config } }

// WithLogger has it told, at level Warn, whenever a write is sent again or a watch goes on after its stream has ended: with the
// error, and without any value of the request. By default nobody is told.
func WithLogger(logger *slog.Logger) Option { return func(s *settings) { s.log = logger } }

// WithDialOptions passes options to gRPC, after those of the client: a handler of statistics that traces, for instance.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) { s.dial = append(s.dial, options...) }
}
