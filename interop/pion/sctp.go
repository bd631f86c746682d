package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/logging"
	"github.com/pion/sctp"
)

// The sign of life of clients, a message of its own.
const heartbeat = "6v3jyM521GkBo1lsMyVLcRyzdZ7FKEM3"

// Messages are at most this long, and no more than this waits to be sent.
const (
	messageSize = 16384
	waiting     = 256 * 1024
)

func init() {
	commands["tunnel-client"] = func(a []string) error { return tunnel("tunnel-client", true, a) }
	commands["tunnel-station"] = func(a []string) error { return tunnel("tunnel-station", false, a) }
}

// A tunnel as client or station, each as DTLS client (-connect) or server. The client sends a
// length and as many bytes, and wants the same bytes back.
func tunnel(name string, client bool, arguments []string) error {
	flags, o := dtlsFlags(name)
	connect := flags.String("connect", "", "address of the DTLS server; without it this is one")
	size := flags.Int("size", 4<<20, "bytes to send (client)")
	unordered := flags.Bool("unordered", false, "send without an order (station), or bear that (client)")
	_ = flags.Parse(arguments)
	conn, err := connection(o, *connect)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	config := sctp.Config{NetConn: conn, LoggerFactory: logging.NewDefaultLoggerFactory()}
	if client {
		return tunnelClient(config, *size, *unordered)
	}
	return tunnelStation(config, *unordered)
}

func connection(o *dtlsOptions, connect string) (*dtls.Conn, error) {
	config, err := o.config(connect != "")
	if err != nil {
		return nil, err
	}
	if connect != "" {
		address, err := net.ResolveUDPAddr("udp", connect)
		if err != nil {
			return nil, err
		}
		return dtls.Dial("udp", address, config)
	}
	listener, err := dtls.Listen("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, config)
	if err != nil {
		return nil, err
	}
	fmt.Printf("listening %v\n", listener.Addr())
	accepted, err := listener.Accept()
	if err != nil {
		return nil, err
	}
	conn, ok := accepted.(*dtls.Conn)
	if !ok {
		return nil, errors.New("not a DTLS connection")
	}
	return conn, nil
}

func pattern(size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i/7 + i/65521)
	}
	return data
}

func histogram(data []byte) (counts [256]int) {
	for _, b := range data {
		counts[b]++
	}
	return counts
}

// Writes in messages, as the peer takes them.
func send(stream *sctp.Stream, data []byte) error {
	low := make(chan struct{}, 1)
	stream.SetBufferedAmountLowThreshold(waiting / 2)
	stream.OnBufferedAmountLow(func() {
		select {
		case low <- struct{}{}:
		default:
		}
	})
	for len(data) > 0 {
		n := min(messageSize, len(data))
		if _, err := stream.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
		for stream.BufferedAmount() > waiting {
			select {
			case <-low:
			case <-time.After(30 * time.Second):
				return errors.New("nothing is acknowledged any more")
			}
		}
	}
	return nil
}

func tunnelClient(config sctp.Config, size int, unordered bool) error {
	association, err := sctp.Client(config)
	if err != nil {
		return err
	}
	stream, err := association.OpenStream(0, sctp.PayloadTypeWebRTCString)
	if err != nil {
		return err
	}
	if _, err := stream.Write([]byte(heartbeat)); err != nil {
		return err
	}
	go func() {
		for range time.Tick(time.Second) {
			if _, err := stream.Write([]byte(heartbeat)); err != nil {
				return
			}
		}
	}()
	data := pattern(size)
	head := make([]byte, 8)
	binary.BigEndian.PutUint64(head, uint64(size))
	sent := make(chan error, 1)
	go func() { sent <- send(stream, append(head, data...)) }()
	got := make([]byte, 0, size)
	buffer := make([]byte, 65536)
	for len(got) < size {
		_ = stream.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := stream.Read(buffer)
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", len(got), size, err)
		}
		got = append(got, buffer[:n]...)
	}
	if err := <-sent; err != nil {
		return err
	}
	same := bytes.Equal(got, data)
	if unordered {
		// Messages overtake each other, so only what there is can be compared.
		same = histogram(got) == histogram(data)
	}
	if !same {
		return errors.New("other bytes came back")
	}
	if err := stream.Close(); err != nil {
		return err
	}
	_ = stream.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := stream.Read(buffer); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%v instead of the end", err)
	}
	fmt.Printf("%d bytes came back\n", size)
	return association.Close()
}

func tunnelStation(config sctp.Config, unordered bool) error {
	association, err := sctp.Server(config)
	if err != nil {
		return err
	}
	stream, err := association.AcceptStream()
	if err != nil {
		return err
	}
	stream.SetReliabilityParams(unordered, sctp.ReliabilityTypeReliable, 0)
	var got []byte
	size, heartbeats := -1, 0
	buffer := make([]byte, 65536)
	for size < 0 || len(got) < size {
		_ = stream.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := stream.Read(buffer)
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", len(got), err)
		}
		if string(buffer[:n]) == heartbeat {
			heartbeats++
			continue
		}
		got = append(got, buffer[:n]...)
		if size < 0 && len(got) >= 8 {
			size = int(binary.BigEndian.Uint64(got))
			got = got[8:]
		}
	}
	if heartbeats == 0 {
		return errors.New("no heartbeat")
	}
	if err := send(stream, got); err != nil {
		return err
	}
	for {
		_ = stream.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := stream.Read(buffer)
		if err != nil {
			break
		}
		if string(buffer[:n]) != heartbeat {
			return fmt.Errorf("%d bytes too many", n)
		}
	}
	fmt.Printf("%d bytes sent back, %d heartbeats\n", size, heartbeats)
	// Closing does not send an acknowledgement that is due within 200 ms, and sometimes says no farewell: the
	// other side would go on repeating its last message.
	time.Sleep(500 * time.Millisecond)
	return association.Close()
}
