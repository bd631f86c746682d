// Pion's DTLS 1.2 and SCTP over UDP on the loopback, both ends in one process. For each line of
// standard input moves 64 MiB through one association and prints the milliseconds of processor time
// of the whole process per GB.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/selfsign"
	"github.com/pion/logging"
	"github.com/pion/sctp"
)

const (
	size = 64 << 20
	// Messages of this length, and no more than so much that waits to be sent.
	message = 32 << 10
	waiting = 1 << 20
)

func spent() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func config() (*dtls.Config, error) {
	certificate, err := selfsign.GenerateSelfSigned()
	if err != nil {
		return nil, err
	}
	return &dtls.Config{
		Certificates:         []tls.Certificate{certificate},
		CipherSuites:         []dtls.CipherSuiteID{dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		ClientAuth:           dtls.RequireAnyClientCert,
		ExtendedMasterSecret: dtls.RequireExtendedMasterSecret,
		InsecureSkipVerify:   true,
	}, nil
}

// Both ends of one stream.
func connect() (client, server *sctp.Stream, err error) {
	c, err := config()
	if err != nil {
		return nil, nil, err
	}
	listener, err := dtls.Listen("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, c)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	type end struct {
		stream *sctp.Stream
		err    error
	}
	accepted := make(chan end, 1)
	go func() {
		stream, err := accept(ctx, listener)
		accepted <- end{stream, err}
	}()
	address, ok := listener.Addr().(*net.UDPAddr)
	if !ok {
		return nil, nil, errors.New("not a UDP address")
	}
	conn, err := dtls.Dial("udp", address, c)
	if err != nil {
		return nil, nil, err
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	association, err := sctp.Client(settings(conn))
	if err != nil {
		return nil, nil, err
	}
	client, err = association.OpenStream(0, sctp.PayloadTypeWebRTCBinary)
	if err != nil {
		return nil, nil, err
	}
	// A stream is known to the other end with its first message.
	if _, err := client.Write([]byte{0}); err != nil {
		return nil, nil, err
	}
	other := <-accepted
	return client, other.stream, other.err
}

func settings(conn net.Conn) sctp.Config {
	return sctp.Config{NetConn: conn, LoggerFactory: logging.NewDefaultLoggerFactory()}
}

func accept(ctx context.Context, listener net.Listener) (*sctp.Stream, error) {
	accepted, err := listener.Accept()
	if err != nil {
		return nil, err
	}
	conn, ok := accepted.(*dtls.Conn)
	if !ok {
		return nil, errors.New("not a DTLS connection")
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	association, err := sctp.Server(settings(conn))
	if err != nil {
		return nil, err
	}
	stream, err := association.AcceptStream()
	if err != nil {
		return nil, err
	}
	_, err = stream.Read(make([]byte, 16))
	return stream, err
}

func send(stream *sctp.Stream, room <-chan struct{}) error {
	data := make([]byte, message)
	for sent := 0; sent < size; sent += message {
		for stream.BufferedAmount() > waiting {
			<-room
		}
		if _, err := stream.Write(data); err != nil {
			return err
		}
	}
	return nil
}

func receive(stream *sctp.Stream) error {
	buffer := make([]byte, 64<<10)
	for got := 0; got < size; {
		n, err := stream.Read(buffer)
		if err != nil {
			return err
		}
		got += n
	}
	return nil
}

func main() {
	client, server, err := connect()
	if err != nil {
		log.Fatal(err)
	}
	room := make(chan struct{}, 1)
	client.SetBufferedAmountLowThreshold(waiting / 2)
	client.OnBufferedAmountLow(func() {
		select {
		case room <- struct{}{}:
		default:
		}
	})
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		start := spent()
		sent := make(chan error, 1)
		go func() { sent <- send(client, room) }()
		if err := receive(server); err != nil {
			log.Fatal(err)
		}
		if err := <-sent; err != nil {
			log.Fatal(err)
		}
		fmt.Println((spent() - start).Seconds() * 1e3 * 1e9 / size)
	}
}
