package entityservice

import (
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// target is where the service is, as gRPC wants to know it.
type target struct {
	name      string
	isTLS     bool
	resolvers []resolver.Builder
}

// parseTarget reads "http://host:port" or "https://host[:port]", with further hosts behind commas.
func parseTarget(text string) (target, error) {
	scheme, rest, found := strings.Cut(strings.TrimSuffix(text, "/"), "://")
	if !found || (scheme != "http" && scheme != "https") || rest == "" || strings.ContainsAny(rest, "/?#@") {
		return target{}, fmt.Errorf("entityservice: the target %q is neither http://host:port nor https://host[:port]", text)
	}
	port := map[string]string{"http": "80", "https": "443"}[scheme]
	var addresses []resolver.Address
	for _, host := range strings.Split(rest, ",") {
		host = strings.TrimSpace(host)
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), port)
		}
		name, _, err := net.SplitHostPort(host)
		if err != nil || name == "" {
			return target{}, fmt.Errorf("entityservice: %q of the target %q is no host:port", host, text)
		}
		addresses = append(addresses, resolver.Address{Addr: host, ServerName: name})
	}
	made := target{isTLS: scheme == "https"}
	if len(addresses) == 1 {
		made.name = "dns:///" + addresses[0].Addr
		return made, nil
	}
	several := manual.NewBuilderWithScheme("entityservice")
	several.InitialState(resolver.State{Addresses: addresses})
	made.name = several.Scheme() + ":///" + addresses[0].Addr
	made.resolvers = []resolver.Builder{several}
	return made, nil
}
