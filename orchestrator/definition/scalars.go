package definition

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/invopop/jsonschema"
	"go.yaml.in/yaml/v4"
)

// Size is a number of bytes, written as 512M, 2G or 1.5T (powers of 1024).
type Size int64

// Units of Size, in bytes.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var (
	sizePattern = regexp.MustCompile(`^([0-9]+)(\.[0-9]+)?\s*([kKmMgGtT]?)(i?[bB])?$`)
	sizeUnits   = map[string]Size{"": 1, "k": KiB, "m": MiB, "g": GiB, "t": TiB}
)

// ParseSize reads a size. It must be positive and below 2^63 bytes.
func ParseSize(text string) (Size, error) {
	parts := sizePattern.FindStringSubmatch(strings.TrimSpace(text))
	if parts == nil {
		return 0, fmt.Errorf("%q is not a size", text)
	}
	unit := sizeUnits[strings.ToLower(parts[3])]
	if parts[2] == "" {
		whole, err := strconv.ParseInt(parts[1], 10, 64)
		if err != nil || whole > math.MaxInt64/int64(unit) {
			return 0, fmt.Errorf("%q is too large", text)
		}
		return positive(Size(whole)*unit, text)
	}
	value, err := strconv.ParseFloat(parts[1]+parts[2], 64)
	if err != nil || value*float64(unit) >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is too large", text)
	}
	return positive(Size(math.Round(value*float64(unit))), text)
}

func positive(size Size, text string) (Size, error) {
	if size <= 0 {
		return 0, fmt.Errorf("%q is not a positive size", text)
	}
	return size, nil
}

// String is the size in the largest unit that divides it, as ParseSize reads.
func (s Size) String() string {
	for _, unit := range []struct {
		bytes Size
		name  string
	}{{TiB, "T"}, {GiB, "G"}, {MiB, "M"}, {KiB, "K"}} {
		if s != 0 && s%unit.bytes == 0 {
			return strconv.FormatInt(int64(s/unit.bytes), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; "0" means not given.
func (s *Size) UnmarshalText(text []byte) (err error) {
	if string(text) == "0" {
		*s = 0
		return nil
	}
	*s, err = ParseSize(string(text))
	return err
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Size) UnmarshalYAML(n *yaml.Node) error { return s.UnmarshalText([]byte(n.Value)) }

func (Size) checkScalar(value string) (mend string, err error) {
	_, err = ParseSize(value)
	return "write a number with a unit, such as 512M or 2G", err
}

// JSONSchema describes the type for editors.
func (Size) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
		{Type: "string", Pattern: sizePattern.String()},
		{Type: "integer", Minimum: "1"},
	}}
}

// Duration is a span of time, written as 90s or 5m.
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	value, err := time.ParseDuration(string(text))
	*d = Duration(value)
	return err
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error { return d.UnmarshalText([]byte(n.Value)) }

func (Duration) checkScalar(value string) (mend string, err error) {
	parsed, err := time.ParseDuration(value)
	if err == nil && parsed <= 0 {
		err = fmt.Errorf("%q is not a positive time", value)
	}
	return "write a time with a unit, such as 90s or 5m", err
}

// JSONSchema describes the type for editors.
func (Duration) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: `^([0-9]+(\.[0-9]+)?(s|m|h))+$`}
}

// Mode is a file's permissions in octal digits. YAML reads 0644 as a number;
// what counts here is what the user wrote.
type Mode string

var modePattern = regexp.MustCompile(`^0?o?[0-7]{3,4}$`)

// UnmarshalYAML implements yaml.Unmarshaler.
func (m *Mode) UnmarshalYAML(n *yaml.Node) error {
	digits := strings.TrimPrefix(strings.TrimPrefix(n.Value, "0"), "o")
	if digits != "" {
		digits = fmt.Sprintf("%04s", digits)
	}
	*m = Mode(digits)
	return nil
}

func (Mode) checkScalar(value string) (mend string, err error) {
	if !modePattern.MatchString(value) {
		err = fmt.Errorf("%q are no file permissions", value)
	}
	return "write three or four octal digits, such as 0644", err
}

// JSONSchema describes the type for editors.
func (Mode) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
		{Type: "string", Pattern: modePattern.String()},
		{Type: "integer", Minimum: "0"},
	}}
}

// roleFields is Role without its methods.
type roleFields Role

// plain says whether the name is all there is.
func (r Role) plain() bool { return len(r.Vars) == 0 && len(r.Tags) == 0 }

func (r Role) value() any {
	if r.plain() {
		return r.Name
	}
	return roleFields(r)
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (r *Role) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*r = Role{Name: n.Value}
		return nil
	}
	return n.Decode((*roleFields)(r))
}

// MarshalYAML implements yaml.Marshaler.
func (r Role) MarshalYAML() (any, error) { return r.value(), nil }

// MarshalJSON implements json.Marshaler.
func (r Role) MarshalJSON() ([]byte, error) { return json.Marshal(r.value()) }

// UnmarshalJSON implements json.Unmarshaler.
func (r *Role) UnmarshalJSON(text []byte) error {
	*r = Role{}
	if json.Unmarshal(text, &r.Name) == nil {
		return nil
	}
	return json.Unmarshal(text, (*roleFields)(r))
}

// JSONSchema describes the type for editors.
func (Role) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "string"}, reflector().ReflectFromType(reflect.TypeFor[roleFields]())}}
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *SeedFile) UnmarshalYAML(n *yaml.Node) error {
	s.Node = n
	return nil
}

// JSONSchema describes the type for editors.
func (SeedFile) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "string"}, {Type: "object"}}}
}

// Layout is a named disk layout or an inline list of partitions.
type Layout struct {
	Name       string
	Partitions []Partition
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (l *Layout) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.SequenceNode {
		return n.Decode(&l.Partitions)
	}
	l.Name = n.Value
	return nil
}

// IsZero tells the encoders whether the layout was given.
func (l Layout) IsZero() bool { return l.Name == "" && len(l.Partitions) == 0 }

func (l Layout) value() any {
	if len(l.Partitions) > 0 {
		return l.Partitions
	}
	return l.Name
}

// MarshalYAML implements yaml.Marshaler.
func (l Layout) MarshalYAML() (any, error) { return l.value(), nil }

// MarshalJSON implements json.Marshaler: a name or a list, as in a definition.
func (l Layout) MarshalJSON() ([]byte, error) { return json.Marshal(l.value()) }

// UnmarshalJSON implements json.Unmarshaler. It also reads the mapping of Name
// and Partitions that older builds left in build.json.
func (l *Layout) UnmarshalJSON(text []byte) error {
	*l = Layout{}
	switch {
	case bytes.HasPrefix(text, []byte(`"`)):
		return json.Unmarshal(text, &l.Name)
	case bytes.HasPrefix(text, []byte(`[`)):
		return json.Unmarshal(text, &l.Partitions)
	}
	type mapping Layout
	return json.Unmarshal(text, (*mapping)(l))
}

// JSONSchema describes the type for editors.
func (Layout) JSONSchema() *jsonschema.Schema {
	partition := reflector().ReflectFromType(partitionType)
	partition.Version = ""
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
		{Type: "string", Enum: []any{LayoutHybrid, LayoutEFI, LayoutBIOS, LayoutNone}},
		{Type: "array", Items: partition},
	}}
}
