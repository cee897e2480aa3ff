package entityservice_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var fence = regexp.MustCompile("(?ms)^```(go|console)\n(.*?)^```$")

// The README's first call, as a newcomer makes it: its commands and its program, in an empty folder beside the checkout.
func TestTheFirstCallOfTheReadme(t *testing.T) {
	realClient(t)
	folder := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	checkout := filepath.Join(folder, "entity-service")
	must(t, os.MkdirAll(filepath.Join(checkout, "clients"), 0o755))
	must(t, os.MkdirAll(filepath.Join(checkout, ".data"), 0o755))
	must(t, os.Symlink(here, filepath.Join(checkout, "clients", "go")))
	must(t, os.WriteFile(filepath.Join(checkout, ".data", "bootstrap-key"), []byte(os.Getenv("ENTITY_SERVICE_API_KEY")), 0o600))

	script, expected := "set -e\n", ""
	for _, block := range blocksOf(t, "The first call") {
		if block[0] == "go" {
			program := strings.ReplaceAll(block[1], "http://127.0.0.1:50051", os.Getenv("ENTITY_SERVICE_TARGET"))
			script += fmt.Sprintf("cat > main.go <<'EOF'\n%s\nEOF\n", program)
			continue
		}
		for line := range strings.Lines(block[1]) {
			if command, isCommand := strings.CutPrefix(line, "$ "); isCommand {
				script += command
			} else {
				expected += line
			}
		}
	}
	command := exec.CommandContext(t.Context(), "sh", "-c", script)
	command.Dir = folder
	var said strings.Builder
	command.Stderr = &said
	output, err := command.Output()
	if err != nil || string(output) != expected {
		t.Errorf("%v: %q instead of %q\n%s", err, output, expected, said.String())
	}
}

// The other blocks of Go are vetted, each as the body of a function that has what it takes for granted.
func TestTheBlocksOfTheReadme(t *testing.T) {
	folder := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	bodies := `package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"entityservice"
	entityv1 "entityservice/gen/entity/v1"
)

var (
	_        = errors.Is
	_        = io.EOF
	_        = time.Second
	apiKey   string
	position string
	client   *entityservice.Client
	rows     []*entityv1.Entity
)

func listAgain(context.Context) error { return nil }
func used(...any)                      {}
func main()                            {}
`
	count := 0
	for _, section := range []string{"What a call does", "Errors", "Watch", "Import"} {
		for _, block := range blocksOf(t, section) {
			count++
			body := block[1]
			if strings.Contains(body, "client, err :=") {
				body += "used(client, err)\n"
			}
			if strings.Contains(body, "answer, err := client") {
				body += "used(answer, err)\n"
			}
			if !strings.Contains(body, "for {") {
				body += "return nil\n"
			}
			// In a block of its own, as "ctx :=" is where it is written.
			bodies += fmt.Sprintf("\nfunc block%d(ctx context.Context) error {\nused(ctx)\n{\n%s}\n}\n", count, body)
		}
	}
	if count < 5 {
		t.Fatalf("only %d blocks", count)
	}
	must(t, os.WriteFile(filepath.Join(folder, "main.go"), []byte(bodies), 0o600))
	script := fmt.Sprintf("go mod init example.com/blocks && go mod edit -require=entityservice@v0.0.0 -replace=entityservice=%s && go mod tidy && go vet .", here)
	command := exec.CommandContext(t.Context(), "sh", "-c", script)
	command.Dir = folder
	if said, err := command.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s\n%s", err, said, bodies)
	}
}

// blocksOf answers language and text of each fenced block of a section.
func blocksOf(t *testing.T, section string) [][2]string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	must(t, err)
	_, rest, found := strings.Cut(string(text), "\n## "+section+"\n")
	if !found {
		t.Fatalf("no section %q", section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	var blocks [][2]string
	for _, match := range fence.FindAllStringSubmatch(rest, -1) {
		blocks = append(blocks, [2]string{match[1], match[2]})
	}
	return blocks
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
