package ansible

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// VaultKey is the one key of a mapping that stands for what ansible-vault has encrypted, as
// Ansible's own JSON has it.
const VaultKey = "__ansible_vault"

const vaultTag = "!vault "

// hasVault says whether what withVault wrote is no JSON.
func hasVault(text []byte) bool { return bytes.Contains(text, []byte(vaultTag+`"$ANSIBLE_VAULT`)) }

// withVault is a value as JSON, in which YAML's tag marks what is encrypted: then it is YAML
// alone, which every Ansible reads the same.
func withVault(value any) ([]byte, error) {
	text, err := json.Marshal(value)
	if err != nil || !bytes.Contains(text, []byte(`"`+VaultKey+`"`)) {
		return text, err
	}
	var general any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&general); err != nil {
		return nil, err
	}
	var tagged bytes.Buffer
	err = tag(&tagged, general)
	return tagged.Bytes(), err
}

func tag(to *bytes.Buffer, value any) error {
	switch value := value.(type) {
	case map[string]any:
		if encrypted, ok := value[VaultKey].(string); ok && len(value) == 1 {
			to.WriteString(vaultTag)
			return tag(to, encrypted)
		}
		to.WriteByte('{')
		for i, key := range slices.Sorted(maps.Keys(value)) {
			if i > 0 {
				to.WriteString(", ")
			}
			if err := tag(to, key); err != nil {
				return err
			}
			to.WriteString(": ")
			if err := tag(to, value[key]); err != nil {
				return err
			}
		}
		to.WriteByte('}')
	case []any:
		to.WriteByte('[')
		for i, item := range value {
			if i > 0 {
				to.WriteString(", ")
			}
			if err := tag(to, item); err != nil {
				return err
			}
		}
		to.WriteByte(']')
	default:
		text, err := json.Marshal(value)
		to.Write(text)
		return err
	}
	return nil
}

// prepareVault writes the password, where there is one, for this run alone.
func (r Run) prepareVault() error {
	path := filepath.Join(r.Scratch, vaultFile)
	if r.Vault == "" {
		return os.RemoveAll(path)
	}
	return os.WriteFile(path, []byte(r.Vault+"\n"), 0o600)
}
