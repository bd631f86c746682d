package main

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Material of one session, derived from its shared secret by code of this program's own.
type material struct {
	random [28]byte
	client tls.Certificate
	server tls.Certificate
}

func derive(secret []byte) (material, error) {
	var m material
	random, err := hkdf.Key(sha256.New, secret, []byte("clientHelloRandomFromSeed"), "", 28)
	if err != nil {
		return m, err
	}
	copy(m.random[:], random)
	stream, err := hkdf.Key(sha256.New, secret, []byte("certsFromSeed"), "", 130)
	if err != nil {
		return m, err
	}
	if m.client, err = certificate(stream[:65]); err != nil {
		return m, err
	}
	m.server, err = certificate(stream[65:])
	return m, err
}

// The certificate of 65 bytes of the stream: key material, serial, name.
func certificate(stream []byte) (tls.Certificate, error) {
	var none tls.Certificate
	curve := elliptic.P256()
	one := big.NewInt(1)
	d := new(big.Int).SetBytes(stream[:40])
	d.Mod(d, new(big.Int).Sub(curve.Params().N, one)).Add(d, one)
	scalar := d.FillBytes(make([]byte, 32))
	agreement, err := ecdh.P256().NewPrivateKey(scalar)
	if err != nil {
		return none, err
	}
	point := agreement.PublicKey().Bytes()
	public := ecdsa.PublicKey{
		Curve: curve,
		X:     new(big.Int).SetBytes(point[1:33]),
		Y:     new(big.Int).SetBytes(point[33:]),
	}
	key := &ecdsa.PrivateKey{PublicKey: public, D: d}
	serial := append([]byte{stream[40] & 3}, stream[41:57]...)
	name := fmt.Sprintf("%x", stream[57:65])
	today := time.Now().UTC().Truncate(24 * time.Hour)
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             today,
		NotAfter:              today.AddDate(0, 1, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		DNSNames:              []string{name},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return none, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return none, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// The rule of existing peers: one certificate, signed by the expected key.
func signedBy(expected tls.Certificate) func([][]byte, [][]*x509.Certificate) error {
	return func(raw [][]byte, _ [][]*x509.Certificate) error {
		if len(raw) != 1 {
			return fmt.Errorf("%d certificates", len(raw))
		}
		presented, err := x509.ParseCertificate(raw[0])
		if err != nil {
			return err
		}
		if presented.Subject.CommonName != expected.Leaf.Subject.CommonName ||
			presented.SerialNumber.Cmp(expected.Leaf.SerialNumber) != 0 {
			return errors.New("the certificate has another name or serial")
		}
		return expected.Leaf.CheckSignature(presented.SignatureAlgorithm,
			presented.RawTBSCertificate, presented.Signature)
	}
}
