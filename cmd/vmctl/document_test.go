package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// checkDocument is the script command "document CODE KIND": standard output must
// be one document of --json, for the exit code, with a result of the kind list,
// object, string or null.
func checkDocument(ts *testscript.TestScript, negated bool, args []string) {
	if negated || len(args) != 2 {
		ts.Fatalf("usage: document CODE KIND")
	}
	var document struct {
		Result json.RawMessage `json:"result"`
		Error  *struct {
			Message, Hint *string
			ExitCode      int `json:"exit_code"`
			Problems      []struct{ File, What, Mend string }
		} `json:"error"`
	}
	decoder := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	if err := decoder.Decode(&document); err != nil {
		ts.Fatalf("standard output: %v", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		ts.Fatalf("standard output holds more than a document")
	}
	code := 0
	if document.Error != nil {
		code = document.Error.ExitCode
		if document.Error.Message == nil || *document.Error.Message == "" || document.Error.Hint == nil {
			ts.Fatalf("the error has no message or no hint")
		}
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("the document tells of exit code %d, not %s", code, args[0])
	}
	kind := map[byte]string{'[': "list", '{': "object", '"': "string", 'n': "null"}[bytes.TrimSpace(document.Result)[0]]
	if kind != args[1] {
		ts.Fatalf("the result is of the kind %s, not %s", kind, args[1])
	}
}
