package main

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/elliptic"
)

func init() {
	commands["dtls-client"] = dtlsClient
	commands["dtls-server"] = dtlsServer
}

// What both roles are told on the command line.
type dtlsOptions struct {
	secret string
	other  bool
	cookie bool
	aes256 bool
	curve  string
	mtu    int
	count  int
}

func dtlsFlags(name string) (*flag.FlagSet, *dtlsOptions) {
	o := new(dtlsOptions)
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	flags.StringVar(&o.secret, "secret", "", "shared secret, hexadecimal")
	flags.BoolVar(&o.other, "other", false, "present the certificate of another secret")
	flags.BoolVar(&o.cookie, "cookie", false, "ask for a cookie (server)")
	flags.BoolVar(&o.aes256, "aes256", false, "only AES-256-GCM")
	flags.StringVar(&o.curve, "curve", "", "only this group: X25519, P-256 or P-384")
	flags.IntVar(&o.mtu, "mtu", 1200, "limit of handshake fragments")
	flags.IntVar(&o.count, "count", 100, "messages to send (client)")
	return flags, o
}

func (o *dtlsOptions) config(client bool) (*dtls.Config, error) {
	secret, err := hex.DecodeString(o.secret)
	if err != nil || len(secret) == 0 {
		return nil, errors.New("-secret is not hexadecimal")
	}
	m, err := derive(secret)
	if err != nil {
		return nil, err
	}
	own, peer := m.server, m.client
	if client {
		own, peer = m.client, m.server
	}
	if o.other {
		wrong, err := derive(append([]byte("other"), secret...))
		if err != nil {
			return nil, err
		}
		own = wrong.server
		if client {
			own = wrong.client
		}
	}
	c := &dtls.Config{
		Certificates:              []tls.Certificate{own},
		ClientAuth:                dtls.RequireAnyClientCert,
		ExtendedMasterSecret:      dtls.RequireExtendedMasterSecret,
		InsecureSkipVerify:        true,
		InsecureSkipVerifyHello:   !o.cookie,
		VerifyPeerCertificate:     signedBy(peer),
		HelloRandomBytesGenerator: func() [28]byte { return m.random },
		MTU:                       o.mtu,
	}
	if o.aes256 {
		c.CipherSuites = []dtls.CipherSuiteID{dtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}
	}
	switch o.curve {
	case "":
	case "X25519":
		c.EllipticCurves = []elliptic.Curve{elliptic.X25519}
	case "P-256":
		c.EllipticCurves = []elliptic.Curve{elliptic.P256}
	case "P-384":
		c.EllipticCurves = []elliptic.Curve{elliptic.P384}
	default:
		return nil, fmt.Errorf("-curve %s is not known", o.curve)
	}
	return c, nil
}

// Connects, sends messages of growing length, wants each back, and has the server close.
func dtlsClient(arguments []string) error {
	flags, o := dtlsFlags("dtls-client")
	connect := flags.String("connect", "", "address of the server")
	_ = flags.Parse(arguments)
	config, err := o.config(true)
	if err != nil {
		return err
	}
	address, err := net.ResolveUDPAddr("udp", *connect)
	if err != nil {
		return err
	}
	conn, err := dtls.Dial("udp", address, config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	buffer := make([]byte, 8192)
	for i := range o.count {
		message := make([]byte, 1+i*37%1200)
		for j := range message {
			message[j] = byte(i + j)
		}
		if _, err := conn.Write(message); err != nil {
			return err
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := conn.Read(buffer)
		if err != nil {
			return err
		}
		if string(buffer[:n]) != string(message) {
			return fmt.Errorf("message %d came back as %d other bytes", i, n)
		}
	}
	// Pion's own Close cancels its reader first, which may close the socket before the alert is
	// sent; so the server is asked to, and its alert must end the connection.
	if _, err := conn.Write([]byte("close")); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := conn.Read(buffer); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%d bytes and %v instead of the end", n, err)
	}
	fmt.Printf("%d messages came back\n", o.count)
	return nil
}

// Serves one client: sends back what it says until it closes.
func dtlsServer(arguments []string) error {
	flags, o := dtlsFlags("dtls-server")
	_ = flags.Parse(arguments)
	config, err := o.config(false)
	if err != nil {
		return err
	}
	listener, err := dtls.Listen("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, config)
	if err != nil {
		return err
	}
	defer listener.Close()
	fmt.Printf("listening %v\n", listener.Addr())
	accepted, err := listener.Accept()
	if err != nil {
		return err
	}
	conn, ok := accepted.(*dtls.Conn)
	if !ok {
		return errors.New("not a DTLS connection")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	buffer := make([]byte, 8192)
	count := 0
	for {
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := conn.Read(buffer)
		if errors.Is(err, io.EOF) {
			fmt.Printf("%d messages sent back\n", count)
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return err
		}
		count++
	}
}
