package orchestrator

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// What is encrypted with ansible-vault counts by its bytes, like any file. The password is a
// secret beside those of the definition: it goes to Ansible, and is part of no key.

// vaultPassword is its name among the secrets, which no variable has.
const vaultPassword = ""

// vaultMark begins what ansible-vault has encrypted.
const vaultMark = "$ANSIBLE_VAULT;"

// PasswordSource is where the password of ansible-vault comes from.
type PasswordSource struct {
	File string // a file that holds it, or a program that prints it; "" for none
}

// take gets the password, where there is one to be had, and refuses a build that needs
// another one.
func (p PasswordSource) take(ctx context.Context, plan Plan, to secrets) (secrets, error) {
	encrypted, err := plan.vaulted(ctx)
	if err != nil {
		return to, err
	}
	if p.File == "" {
		if len(encrypted) == 0 {
			return to, nil
		}
		return to, fail.New(fail.Usage, encrypted[0].Origin, "name the file with its password with --vault-password-file or VMCTL_VAULT_PASSWORD_FILE", "this is encrypted with ansible-vault%s", andMore(len(encrypted)-1))
	}
	password, err := p.password(ctx)
	if err != nil {
		return to, fail.Wrap(fail.Usage, "--vault-password-file", err)
	}
	if to == nil {
		to = secrets{}
	}
	to[vaultPassword] = password
	if len(encrypted) > 0 && !slices.ContainsFunc(encrypted, func(v definition.Vaulted) bool { return opens(password, v.Text) }) {
		return to, fail.New(fail.Usage, encrypted[0].Origin, "see --vault-password-file", "this is encrypted with another password%s", andMore(len(encrypted)-1))
	}
	return to, nil
}

func andMore(places int) string {
	switch places {
	case 0:
		return ""
	case 1:
		return ", and so is another place"
	}
	return fmt.Sprintf(", and so are %d other places", places)
}

// password is what Ansible takes for it: the text of the file, or what the program prints. A
// program whose name ends in -client is asked for the label that Ansible has by default.
func (p PasswordSource) password(ctx context.Context) (string, error) {
	info, err := os.Stat(p.File)
	if err != nil {
		return "", err
	}
	var content []byte
	if info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
		path, err := filepath.Abs(p.File)
		if err != nil {
			return "", err
		}
		var arguments []string
		if name := filepath.Base(path); strings.HasSuffix(strings.TrimSuffix(name, filepath.Ext(name)), "-client") {
			arguments = []string{"--vault-id", "default"}
		}
		content, err = host.Quietly(ctx, path, arguments...)
		if err != nil {
			return "", err
		}
	} else if content, err = readLimited(p.File, largestSecret+1); err != nil {
		return "", err
	}
	switch password := strings.TrimSpace(string(content)); {
	case password == "":
		return "", fmt.Errorf("%s gives no password", p.File)
	case len(content) > largestSecret:
		return "", fmt.Errorf("what %s gives is longer than %d bytes", p.File, largestSecret)
	default:
		return password, nil
	}
}

// readLimited is the beginning of a file, which may be a pipe.
func readLimited(path string, bytes int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, bytes))
}

// vaulted is what is encrypted of what a build reads, as far as that shows: its variables and
// files, and where it has roles or playbooks, what those may read.
func (p Plan) vaulted(ctx context.Context) (all []definition.Vaulted, err error) {
	all = slices.Clone(p.Definition.Vaulted)
	for _, asset := range p.Definition.Assets() {
		found, err := vaultedIn(p.assetPath(*asset), true)
		if err != nil {
			return nil, err
		}
		for _, v := range found {
			v.Origin = *asset + ":1"
			all = append(all, v)
		}
	}
	var roles []string
	playbooks := false
	for _, layer := range p.Definition.Layers {
		for _, e := range layer.Install {
			playbooks = playbooks || len(e.Playbooks) > 0
			for _, role := range e.Roles {
				roles = append(roles, role.Name)
			}
		}
	}
	uses := len(roles) > 0 || playbooks
	folders := ofImage(p.Project)
	if playbooks {
		folders = append(append(folders, filepath.Join(p.Project, playbooksFolder)), p.rolesPaths()...)
	}
	for _, name := range roles {
		if path := p.rolePath(name); path != "" && !playbooks {
			folders = append(folders, path)
		}
	}
	for _, folder := range folders {
		found, err := p.vaultedBelow(ctx, folder, !uses)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// vaultedBelow is what is encrypted in a folder: whole files, which Ansible cannot read
// otherwise, or values in them, too.
func (p Plan) vaultedBelow(ctx context.Context, folder string, whole bool) (all []definition.Vaulted, err error) {
	var in folderDigest
	if err := in.add(ctx, folder); err != nil {
		return nil, err
	}
	for _, path := range in.files {
		if ofOthers(path, folder) {
			continue
		}
		found, err := vaultedIn(path, whole)
		if err != nil {
			return nil, err
		}
		for _, v := range found {
			for _, root := range []string{p.Project, p.Installed} {
				if name, err := filepath.Rel(root, path); root != "" && err == nil && filepath.IsLocal(name) {
					path = name
				}
			}
			v.Origin = path + v.Origin
			all = append(all, v)
		}
	}
	return all, nil
}

// ofOthers says whether a file holds variables of another host or group, in a folder of variables
// beside a playbook.
func ofOthers(path, below string) bool {
	inside, isBelow := strings.CutPrefix(path, below+"/")
	if !isBelow {
		return false
	}
	names := strings.Split(inside, "/")
	for i, name := range names[:len(names)-1] {
		own, isOne := imageVariables[name]
		if isOne && !slices.Contains(own, strings.TrimSuffix(names[i+1], filepath.Ext(names[i+1]))) {
			return true
		}
	}
	return false
}

// encryptedText is what ansible-vault writes, on its own or in YAML.
var encryptedText = regexp.MustCompile(`\$ANSIBLE_VAULT;[0-9.]+;[A-Z0-9]+[^\n]*\n(?:[ \t]*[0-9a-f]+[ \t]*\r?(?:\n|$))+`)

// vaultedIn is what is encrypted in a file, each with ":" and its line.
func vaultedIn(path string, whole bool) (all []definition.Vaulted, err error) {
	content, err := readLimited(path, largestText)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || whole && !bytes.HasPrefix(content, []byte(vaultMark)) {
		return nil, err
	}
	text := string(content)
	for _, at := range encryptedText.FindAllStringIndex(text, -1) {
		line := 1 + strings.Count(text[:at[0]], "\n")
		all = append(all, definition.Vaulted{Origin: fmt.Sprintf(":%d", line), Text: text[at[0]:at[1]]})
	}
	return all, nil
}

// opens says whether a password is that of an encrypted text.
func opens(password, text string) bool {
	_, ok := decrypted(password, text)
	return ok
}

// decrypted is what a text of Ansible's formats 1.1 and 1.2 holds; false where it has another
// password. The second of two keys that are derived from that authenticates what the first
// encrypts.
func decrypted(password, text string) (plain []byte, ok bool) {
	const rounds, keyBytes, bothKeysAndIV = 10000, 32, 80
	_, body, _ := strings.Cut(text, "\n")
	inner, err := hex.DecodeString(strings.Join(strings.Fields(body), ""))
	if err != nil {
		return nil, false
	}
	parts := bytes.Split(inner, []byte("\n")) // salt, HMAC, ciphertext
	if len(parts) != 3 {
		return nil, false
	}
	for i := range parts {
		if parts[i], err = hex.DecodeString(string(parts[i])); err != nil {
			return nil, false
		}
	}
	keys, err := pbkdf2.Key(sha256.New, password, parts[0], rounds, bothKeysAndIV)
	if err != nil {
		return nil, false
	}
	mac := hmac.New(sha256.New, keys[keyBytes:2*keyBytes])
	mac.Write(parts[2])
	if !hmac.Equal(mac.Sum(nil), parts[1]) {
		return nil, false
	}
	block, err := aes.NewCipher(keys[:keyBytes])
	if err != nil || len(parts[2]) == 0 {
		return nil, false
	}
	plain = parts[2]
	cipher.NewCTR(block, keys[2*keyBytes:]).XORKeyStream(plain, plain)
	padding := int(plain[len(plain)-1]) // PKCS #7
	return plain[:max(0, len(plain)-padding)], true
}

// inventorySecrets is the texts that are encrypted in variables of the image beside the inventory, each with its
// file and line: a value, or all in a file.
func (p Plan) inventorySecrets(ctx context.Context, password string) (all []definition.Vaulted, err error) {
	for _, path := range ofImage(p.Project) {
		found, err := p.vaultedBelow(ctx, path, false)
		if err != nil {
			return nil, err
		}
		for _, v := range found {
			plain, _ := decrypted(password, v.Text)
			texts := []string{strings.TrimSpace(string(plain))}
			var document yaml.Node
			if strings.HasSuffix(v.Origin, ":1") && yaml.Unmarshal(plain, &document) == nil {
				texts = append(texts, scalarsIn(&document)...)
			}
			for _, text := range texts {
				all = append(all, definition.Vaulted{Origin: v.Origin, Text: text})
			}
		}
	}
	return all, nil
}

// scalarsIn is the values in a document of YAML, without the keys of its mappings.
func scalarsIn(n *yaml.Node) (texts []string) {
	if n.Kind == yaml.ScalarNode {
		return []string{n.Value}
	}
	for i, child := range n.Content {
		if n.Kind != yaml.MappingNode || i%2 == 1 {
			texts = append(texts, scalarsIn(child)...)
		}
	}
	return texts
}
