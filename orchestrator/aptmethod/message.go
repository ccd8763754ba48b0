package aptmethod

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Codes of the messages between apt and its methods (APT Method Interface, method.html of
// apt's documentation).
const (
	uriDone       = "201 URI Done"
	uriFailure    = "400 URI Failure"
	redirect      = "103 Redirect"
	uriStart      = "200 URI Start"
	acquire       = "600 URI Acquire"
	configuration = "601 Configuration"
)

// message is one message: a line that says what it is, and fields.
type message struct {
	head   string
	fields []field
}

type field struct{ name, value string }

const largestMessage = 1 << 20 // bytes; apt's configuration takes some 20 kB

var errLarge = errors.New("a message of apt's is too large")

// readMessage reads the next message, passing over empty lines before it. The error is
// io.EOF where there is none.
func readMessage(r *bufio.Reader) (message, error) {
	var m message
	size := 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			if errors.Is(err, io.EOF) && m.head != "" {
				err = io.ErrUnexpectedEOF
			}
			return message{}, err
		}
		if size += len(line); size > largestMessage {
			return message{}, errLarge
		}
		line = strings.TrimRight(line, "\r\n")
		switch {
		case line == "" && m.head == "":
		case line == "":
			return m, nil
		case m.head == "":
			m.head = line
		default:
			name, value, _ := strings.Cut(line, ":")
			m.fields = append(m.fields, field{name, strings.TrimPrefix(value, " ")})
		}
	}
}

func (m message) is(head string) bool { return strings.HasPrefix(m.head, head[:3]) }

// get is the value of a field, "" where it is missing.
func (m message) get(name string) string {
	for _, f := range m.fields {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

// with is the same message with another value of a field.
func (m message) with(name, value string) message {
	m.fields = slices.Clone(m.fields)
	for i := range m.fields {
		if strings.EqualFold(m.fields[i].name, name) {
			m.fields[i].value = value
			return m
		}
	}
	m.fields = append(m.fields, field{name, value})
	return m
}

// without is the same message without a field.
func (m message) without(name string) message {
	var fields []field
	for _, f := range m.fields {
		if !strings.EqualFold(f.name, name) {
			fields = append(fields, f)
		}
	}
	m.fields = fields
	return m
}

func (m message) String() string {
	var b strings.Builder
	b.WriteString(m.head + "\n")
	for _, f := range m.fields {
		fmt.Fprintf(&b, "%s: %s\n", f.name, f.value)
	}
	b.WriteByte('\n')
	return b.String()
}
