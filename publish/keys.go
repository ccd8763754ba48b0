package publish

import (
	"os"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/publish/artifact"
)

// ReadSigner reads the file of a private key, as artifact.ParseSigner takes it. The
// password of one that cosign made is in the environment variable COSIGN_PASSWORD. The
// error is of the kind fail.Usage.
func ReadSigner(path string) (*artifact.Signer, error) {
	content, err := readKey(path)
	if err != nil {
		return nil, err
	}
	return artifact.ParseSigner(path, content, []byte(os.Getenv("COSIGN_PASSWORD")))
}

// ReadVerifier reads the file of a public key, as artifact.ParseVerifier takes it. The
// error is of the kind fail.Usage.
func ReadVerifier(path string) (*artifact.Verifier, error) {
	content, err := readKey(path)
	if err != nil {
		return nil, err
	}
	return artifact.ParseVerifier(path, content)
}

func readKey(path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, &fail.Error{Kind: fail.Usage, Op: "key", Err: err}
	}
	return content, nil
}
