// The least that a bidirectional registration over HTTP takes: decodes the message, derives its
// phantoms, builds and signs the response and the message for stations. Prints its address and serves
// until standard input ends. The argument is the signing key's seed in hexadecimal digits.
package main

import (
	"bufio"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
)

// The phantom subnets, of one group.
var (
	subnet4 = [4]byte{192, 122, 190, 0}
	subnet6 = [16]byte{0x20, 0x01, 0x48, 0xa8, 0x68, 0x7f, 0, 1}
)

const (
	minSecret = 8
	port      = 443
	// Generation of the subnets, and first client version whose derivation this is.
	generation = 1
	version    = 4
)

var (
	errMessage = errors.New("not a registration")
	key        ed25519.PrivateKey
	// What stations would get; kept so that it has to be made.
	published atomic.Pointer[[]byte]
)

type field struct {
	number int
	value  uint64
	bytes  []byte
}

// The first field of a message, and the rest.
func next(message []byte) (f field, rest []byte, err error) {
	tag, n := binary.Uvarint(message)
	if n <= 0 {
		return f, nil, errMessage
	}
	message = message[n:]
	f.number = int(tag >> 3)
	switch tag & 7 {
	case 0:
		if f.value, n = binary.Uvarint(message); n <= 0 {
			return f, nil, errMessage
		}
		return f, message[n:], nil
	case 2:
		length, n := binary.Uvarint(message)
		if n <= 0 || length > uint64(len(message)-n) {
			return f, nil, errMessage
		}
		end := n + int(length)
		f.bytes = message[n:end]
		return f, message[end:], nil
	default:
		return f, nil, errMessage
	}
}

type registration struct {
	secret, payload, address []byte
	source                   uint64
	generation, version      uint64
	v4, v6                   bool
}

func decode(message []byte) (r registration, err error) {
	for len(message) > 0 {
		var f field
		if f, message, err = next(message); err != nil {
			return r, err
		}
		switch f.number {
		case 1:
			r.secret = f.bytes
		case 3:
			r.payload = f.bytes
		case 4:
			r.source = f.value
		case 6:
			r.address = f.bytes
		}
	}
	if len(r.secret) < minSecret {
		return r, errMessage
	}
	for payload := r.payload; len(payload) > 0; {
		var f field
		if f, payload, err = next(payload); err != nil {
			return r, err
		}
		switch f.number {
		case 2:
			r.generation = f.value
		case 5:
			r.version = f.value
		case 22:
			r.v6 = f.value != 0
		case 23:
			r.v4 = f.value != 0
		}
	}
	return r, nil
}

// The response: phantoms of the seed, and the port.
func respond(r *registration) ([]byte, error) {
	if r.generation != generation || r.version < version {
		return nil, errMessage
	}
	stream, err := hkdf.Key(sha256.New, r.secret, []byte("conjureconjureconjureconjure"), "", 16)
	if err != nil {
		return nil, err
	}
	// One group, so its draw is certain; the address is drawn from the size of its subnets.
	if _, err := hkdf.Key(sha256.New, stream, nil, "phantom-select-subnet", 1); err != nil {
		return nil, err
	}
	draw, err := hkdf.Key(sha256.New, stream, nil, "phantom-addr-id", 8)
	if err != nil {
		return nil, err
	}
	var response []byte
	if r.v4 {
		number := binary.BigEndian.Uint32(subnet4[:]) + uint32(draw[0])
		response = append(response, 1<<3|5)
		response = binary.LittleEndian.AppendUint32(response, number)
	}
	if r.v6 {
		address := subnet6
		copy(address[8:], draw)
		response = appendBytes(response, 2, address[:])
	}
	return binary.AppendUvarint(append(response, 3<<3), port), nil
}

func appendBytes(message []byte, number uint64, content []byte) []byte {
	message = binary.AppendUvarint(message, number<<3|2)
	message = binary.AppendUvarint(message, uint64(len(content)))
	return append(message, content...)
}

func publication(r *registration, peer string, response []byte) ([]byte, error) {
	address := r.address
	if address == nil {
		from, err := netip.ParseAddrPort(peer)
		if err != nil {
			return nil, err
		}
		sixteen := from.Addr().As16()
		address = sixteen[:]
	}
	source := r.source
	if source == 0 {
		source = 4
	}
	message := make([]byte, 0, 256)
	message = appendBytes(message, 1, r.secret)
	message = appendBytes(message, 3, r.payload)
	message = binary.AppendUvarint(append(message, 4<<3), source)
	message = appendBytes(message, 6, address)
	message = appendBytes(message, 8, response)
	message = appendBytes(message, 9, response)
	return appendBytes(message, 10, ed25519.Sign(key, response)), nil
}

func register(w http.ResponseWriter, request *http.Request) {
	if request.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(io.LimitReader(request.Body, 64<<10))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r, err := decode(body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	response, err := respond(&r)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	message, err := publication(&r, request.RemoteAddr, response)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	published.Store(&message)
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(response)
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: registrar SEED")
	}
	seed, err := hex.DecodeString(os.Args[1])
	if err != nil || len(seed) != ed25519.SeedSize {
		log.Fatal("the seed is not 64 hexadecimal digits")
	}
	key = ed25519.NewKeyFromSeed(seed)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	go func() {
		_, _ = bufio.NewReader(os.Stdin).WriteTo(io.Discard)
		os.Exit(0)
	}()
	mux := http.NewServeMux()
	mux.HandleFunc("/register-bidirectional", register)
	log.Fatal(http.Serve(listener, mux))
}
