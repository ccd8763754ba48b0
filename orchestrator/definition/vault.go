package definition

import (
	"slices"

	"go.yaml.in/yaml/v4"
)

// Vaulted is a text that ansible-vault has encrypted.
type Vaulted struct {
	Origin string `json:"origin"` // file:line
	Text   string `json:"text"`
}

const (
	vaultTag = "!vault"
	// vaultKey is the one key of a mapping that stands for such a text, as Ansible's own JSON
	// has it.
	vaultKey = "__ansible_vault"
	// vaultMark begins such a text.
	vaultMark = "$ANSIBLE_VAULT;"
)

// encrypted is the mapping that stands for an encrypted text.
func encrypted(text string, line int) yaml.Node {
	return yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: line, Content: []*yaml.Node{
		{Kind: yaml.ScalarNode, Tag: "!!str", Value: vaultKey, Line: line},
		{Kind: yaml.ScalarNode, Tag: "!!str", Value: text, Line: line},
	}}
}

func isEncrypted(n *yaml.Node) bool { return value(n, vaultKey) != nil }

func holdsEncrypted(n *yaml.Node) bool {
	return isEncrypted(n) || slices.ContainsFunc(n.Content, holdsEncrypted)
}

// reportEncrypted reports an encrypted text where Ansible does not decrypt it.
func (r *reader) reportEncrypted(n *yaml.Node, path string) bool {
	r.report(r.places[n], label(path)+"!vault is understood in the values of vars alone", "make it a variable, and write its name in {{ }} here")
	return false
}
