package artifact

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/publish/limit"
)

// What cosign writes and looks for (sigstore bundle v0.3, in-toto statement v1).
const (
	payloadType      = "application/vnd.in-toto+json"
	statementType    = "https://in-toto.io/Statement/v1"
	predicateType    = "https://sigstore.dev/cosign/sign/v1"
	bundleContentKey = "dev.sigstore.bundle.content"
	bundlePredicate  = "dev.sigstore.bundle.predicateType"
)

// Signer signs with a private key. Its signatures are deterministic, so a
// release that is signed again is the same again.
type Signer struct{ key crypto.Signer }

// ParseSigner reads a private key in PEM: PKCS #8, SEC 1, or one that cosign made and
// sealed with the password. path is where the key was read, for the fail.Usage error
// that says what is wrong with it.
func ParseSigner(path string, content, password []byte) (*Signer, error) {
	block, err := parsePEM(path, content)
	if err != nil {
		return nil, err
	}
	content = block.Bytes
	if block.Type == "ENCRYPTED SIGSTORE PRIVATE KEY" || block.Type == "ENCRYPTED COSIGN PRIVATE KEY" {
		if content, err = encrypted.Decrypt(content, password); err != nil {
			return nil, fail.New(fail.Usage, path, "put its password into the environment variable COSIGN_PASSWORD", "the key cannot be decrypted")
		}
	}
	var key any
	if block.Type == "EC PRIVATE KEY" {
		key, err = x509.ParseECPrivateKey(content)
	} else {
		key, err = x509.ParsePKCS8PrivateKey(content)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok || verifierOf(signer.Public()) == nil {
		return nil, fail.New(fail.Usage, path, "make one with 'cosign generate-key-pair', or 'openssl genpkey -algorithm ed25519'", "no ECDSA P-256, Ed25519 or RSA private key in PEM")
	}
	return &Signer{signer}, nil
}

// Verifier checks signatures with a public key.
type Verifier struct{ key crypto.PublicKey }

// ParseVerifier reads a public key in PEM (PKIX). path is where it was read, for the
// fail.Usage error that says what is wrong with it.
func ParseVerifier(path string, content []byte) (*Verifier, error) {
	block, err := parsePEM(path, content)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if verifier := verifierOf(key); err == nil && verifier != nil {
		return verifier, nil
	}
	return nil, fail.New(fail.Usage, path, "give the public key that belongs to the signing key", "no ECDSA P-256, Ed25519 or RSA public key in PEM")
}

func verifierOf(key crypto.PublicKey) *Verifier {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize != 256 { // cosign's hash is SHA-256
			return nil
		}
	case ed25519.PublicKey, *rsa.PublicKey:
	default:
		return nil
	}
	return &Verifier{key}
}

func parsePEM(path string, content []byte) (*pem.Block, error) {
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, fail.New(fail.Usage, path, "give a key in PEM", "it holds no PEM block")
	}
	return block, nil
}

// sign makes the signature over content that cosign makes with such a key.
func (s *Signer) sign(content []byte) ([]byte, error) {
	if _, ok := s.key.(ed25519.PrivateKey); ok {
		return s.key.Sign(nil, content, crypto.Hash(0))
	}
	sum := sha256.Sum256(content)
	return s.key.Sign(nil, sum[:], crypto.SHA256) // no randomness: RFC 6979 for ECDSA
}

func (v *Verifier) verify(content, signature []byte) bool {
	sum := sha256.Sum256(content)
	switch key := v.key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, sum[:], signature)
	case ed25519.PublicKey:
		return ed25519.Verify(key, content, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) == nil
	default:
		return false
	}
}

// hint is how bundles name a key: the digest of its PKIX form.
func (v *Verifier) hint() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(v.key)
	sum := sha256.Sum256(der)
	return base64.StdEncoding.EncodeToString(sum[:]), err
}

// sigstoreBundle is the part of a sigstore bundle that a key pair needs.
type sigstoreBundle struct {
	MediaType            string `json:"mediaType"`
	VerificationMaterial struct {
		PublicKey struct {
			Hint string `json:"hint,omitempty"`
		} `json:"publicKey"`
	} `json:"verificationMaterial"`
	Envelope envelope `json:"dsseEnvelope"`
}

type envelope struct {
	Payload     []byte      `json:"payload"`
	PayloadType string      `json:"payloadType"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	Sig []byte `json:"sig"`
}

type statement struct {
	Type          string          `json:"_type"`
	Subject       []subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name,omitempty"`
	Digest map[string]string `json:"digest"`
}

// Sign attaches a signature of the release to the first of the manifests, which also
// covers the others.
func (b *Bundle) Sign(s *Signer, r Release, manifests ...ocispec.Descriptor) (Attachment, error) {
	st := statement{Type: statementType, PredicateType: predicateType, Predicate: json.RawMessage("{}")}
	for _, m := range manifests {
		st.Subject = append(st.Subject, subject{Digest: map[string]string{string(m.Digest.Algorithm()): m.Digest.Encoded()}})
	}
	payload, err := json.Marshal(st)
	if err != nil {
		return Attachment{}, err
	}
	sig, err := s.sign(dsse.PAE(payloadType, payload))
	if err != nil {
		return Attachment{}, fmt.Errorf("sign: %w", err)
	}
	signed := sigstoreBundle{MediaType: artifactBundle, Envelope: envelope{Payload: payload, PayloadType: payloadType, Signatures: []signature{{sig}}}}
	if signed.VerificationMaterial.PublicKey.Hint, err = verifierOf(s.key.Public()).hint(); err != nil {
		return Attachment{}, err
	}
	layer, err := b.json(artifactBundle, signed)
	if err != nil {
		return Attachment{}, err
	}
	annotations := r.created()
	annotations[bundleContentKey], annotations[bundlePredicate] = "dsse-envelope", predicateType
	return b.attach(manifests[0], artifactBundle, annotations, layer)
}

// Signed is the digests that a sigstore bundle signs with the key. It is an error where
// the signature is not by it.
func (v *Verifier) Signed(content []byte) ([]digest.Digest, error) {
	var signed sigstoreBundle
	if err := limit.Decode(content, &signed); err != nil {
		return nil, err
	}
	e := signed.Envelope
	pae := dsse.PAE(e.PayloadType, e.Payload)
	if e.PayloadType != payloadType || !slices.ContainsFunc(e.Signatures, func(s signature) bool { return v.verify(pae, s.Sig) }) {
		return nil, errors.New("the signature is not by this key")
	}
	var st statement
	if err := limit.Decode(e.Payload, &st); err != nil {
		return nil, err
	}
	if st.Type != statementType || st.PredicateType != predicateType {
		return nil, fmt.Errorf("the signed statement is a %s", st.PredicateType)
	}
	var digests []digest.Digest
	for _, s := range st.Subject {
		for algorithm, encoded := range s.Digest {
			digests = append(digests, digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded))
		}
	}
	return digests, nil
}
