// Both ends of the DNS channel, made of flynn/noise for the encryption and miekg/dns for the
// messages: `noise client` registers with a registrar, `noise server` answers a client.
package main

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/flynn/noise"
	"github.com/miekg/dns"
	"google.golang.org/protobuf/encoding/protowire"
)

const mtu = 75

var (
	suite  = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s)
	base   = base32.StdEncoding.WithPadding(base32.NoPadding)
	errTxt = errors.New("no text")
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 5 {
		log.Fatal("usage: noise client|server HOST:PORT ZONE KEYHEX")
	}
	key, err := hex.DecodeString(os.Args[4])
	if err != nil || len(key) != 32 {
		log.Fatal("the key is not 32 bytes in hex")
	}
	zone := dns.Fqdn(os.Args[3])
	switch os.Args[1] {
	case "client":
		err = client(os.Args[2], zone, key)
	case "server":
		err = server(os.Args[2], zone, key)
	default:
		err = errors.New("unknown role")
	}
	if err != nil {
		log.Fatal(err)
	}
}

// bytesField appends a length-delimited field.
func bytesField(out []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(out, number, protowire.BytesType), value)
}

func varintField(out []byte, number protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(out, number, protowire.VarintType), value)
}

// fields reads a message into its last varints and bytes by field number.
func fields(message []byte) (map[protowire.Number]uint64, map[protowire.Number][]byte, error) {
	numbers, texts := map[protowire.Number]uint64{}, map[protowire.Number][]byte{}
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, nil, protowire.ParseError(n)
		}
		message = message[n:]
		switch kind {
		case protowire.VarintType:
			value, m := protowire.ConsumeVarint(message)
			numbers[number], n = value, m
		case protowire.BytesType:
			value, m := protowire.ConsumeBytes(message)
			texts[number], n = value, m
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return nil, nil, protowire.ParseError(n)
		}
		message = message[n:]
	}
	return numbers, texts, nil
}

// client registers bidirectionally over UDP, and once more over TCP with one of the parts repeated, and
// prints the phantom port.
func client(server, zone string, key []byte) error {
	for _, network := range []string{"udp", "tcp"} {
		secret, id := make([]byte, 32), make([]byte, 8)
		rand.Read(secret)
		rand.Read(id)
		payload := varintField(nil, 2, 1)
		payload = varintField(payload, 5, 4)
		payload = varintField(payload, 12, 1)
		payload = bytesField(payload, 20, []byte("198.51.100.2:443"))
		payload = varintField(payload, 22, 1)
		payload = varintField(payload, 23, 1)
		wrapper := bytesField(nil, 1, secret)
		wrapper = bytesField(wrapper, 3, payload)
		wrapper = varintField(wrapper, 4, 6)
		wrapper = bytesField(wrapper, 6, []byte{198, 51, 100, 7})
		var parts [][]byte
		for rest := wrapper; len(rest) > 0; {
			n := min(mtu, len(rest))
			parts, rest = append(parts, rest[:n]), rest[n:]
		}
		var answers [][]byte
		// The last part comes again, as resolvers repeat it.
		for _, number := range append(order(len(parts)), 0) {
			part := bytesField(nil, 1, id)
			part = varintField(part, 2, uint64(number))
			part = varintField(part, 3, uint64(len(parts)))
			part = bytesField(part, 4, parts[number])
			reply, err := ask(network, server, zone, key, part)
			if err != nil {
				return fmt.Errorf("%s: %w", network, err)
			}
			numbers, texts, err := fields(reply)
			if err != nil {
				return err
			}
			if numbers[1] == 0 {
				answers = append(answers, texts[2])
			}
		}
		if len(answers) != 2 || string(answers[0]) != string(answers[1]) {
			return fmt.Errorf("%s: %d answers, expected the same one twice", network, len(answers))
		}
		numbers, texts, err := fields(answers[0])
		if err != nil {
			return err
		}
		if numbers[1] != 1 || texts[3] == nil {
			return fmt.Errorf("%s: refused: %x", network, answers[0])
		}
		response, _, err := fields(texts[3])
		if err != nil {
			return err
		}
		fmt.Printf("%s port %d\n", network, response[3])
	}
	return nil
}

// order counts down, so that parts come in the wrong order.
func order(n int) []int {
	var all []int
	for i := n - 1; i >= 0; i-- {
		all = append(all, i)
	}
	return all
}

func ask(network, server, zone string, key, plaintext []byte) ([]byte, error) {
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: suite, Pattern: noise.HandshakeN, Initiator: true, PeerStatic: key,
	})
	if err != nil {
		return nil, err
	}
	sealed, first, _, err := state.WriteMessage(nil, plaintext)
	if err != nil {
		return nil, err
	}
	framed := append([]byte{byte(len(sealed))}, sealed...)
	name := strings.ToLower(base.EncodeToString(framed))
	var labels []string
	for len(name) > 0 {
		n := min(63, len(name))
		labels, name = append(labels, name[:n]), name[n:]
	}
	query := new(dns.Msg)
	query.SetQuestion(strings.Join(labels, ".")+"."+zone, dns.TypeTXT)
	query.SetEdns0(4096, false)
	exchange := dns.Client{Net: network, Timeout: 5 * time.Second}
	reply, _, err := exchange.Exchange(query, server)
	if err != nil {
		return nil, err
	}
	if reply.Rcode != dns.RcodeSuccess || !reply.Authoritative || len(reply.Answer) != 1 {
		return nil, fmt.Errorf("reply: %v", reply)
	}
	text, err := textOf(reply.Answer[0])
	if err != nil {
		return nil, err
	}
	length := int(text[0])<<8 | int(text[1])
	return first.Decrypt(nil, nil, text[2:2+length])
}

// textOf joins the strings of a TXT record, which miekg/dns holds in presentation form.
func textOf(record dns.RR) ([]byte, error) {
	txt, ok := record.(*dns.TXT)
	if !ok {
		return nil, errTxt
	}
	var out []byte
	for _, part := range txt.Txt {
		for i := 0; i < len(part); i++ {
			if part[i] != '\\' {
				out = append(out, part[i])
				continue
			}
			if i+3 < len(part) && part[i+1] >= '0' && part[i+1] <= '9' {
				out = append(out, (part[i+1]-'0')*100+(part[i+2]-'0')*10+part[i+3]-'0')
				i += 3
			} else {
				out = append(out, part[i+1])
				i++
			}
		}
	}
	if len(out) < 2 {
		return nil, errTxt
	}
	return out, nil
}

func escape(data []byte) string {
	var out strings.Builder
	for _, b := range data {
		fmt.Fprintf(&out, "\\%03d", b)
	}
	return out.String()
}

// server answers registrations in parts: phantom 192.0.2.77, port 4321, when all parts are there.
func server(listen, zone string, private []byte) error {
	public, err := publicOf(private)
	if err != nil {
		return err
	}
	gathered := map[string]map[uint64][]byte{}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		reply := new(dns.Msg)
		reply.SetReply(query)
		reply.Authoritative = true
		reply.SetEdns0(4096, false)
		text, err := answer(query, zone, private, public, gathered)
		if err != nil {
			log.Printf("no reply: %v", err)
			return
		}
		var parts []string
		for len(text) > 0 {
			n := min(255, len(text))
			parts, text = append(parts, escape(text[:n])), text[n:]
		}
		reply.Answer = []dns.RR{&dns.TXT{
			Hdr: dns.RR_Header{
				Name: query.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60,
			},
			Txt: parts,
		}}
		if err := w.WriteMsg(reply); err != nil {
			log.Print(err)
		}
	})
	udp := &dns.Server{Addr: listen, Net: "udp", Handler: handler, UDPSize: 4096}
	udp.NotifyStartedFunc = func() { fmt.Println("listening") }
	return udp.ListenAndServe()
}

func publicOf(private []byte) ([]byte, error) {
	pair, err := noise.DH25519.GenerateKeypair(strings.NewReader(string(private)))
	return pair.Public, err
}

func answer(
	query *dns.Msg, zone string, private, public []byte, gathered map[string]map[uint64][]byte,
) ([]byte, error) {
	name, found := strings.CutSuffix(query.Question[0].Name, "."+zone)
	if !found {
		return nil, fmt.Errorf("another zone: %s", query.Question[0].Name)
	}
	framed, err := base.DecodeString(strings.ToUpper(strings.ReplaceAll(name, ".", "")))
	if err != nil {
		return nil, err
	}
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: suite, Pattern: noise.HandshakeN,
		StaticKeypair: noise.DHKey{Private: private, Public: public},
	})
	if err != nil {
		return nil, err
	}
	part, first, _, err := state.ReadMessage(nil, framed[1:1+int(framed[0])])
	if err != nil {
		return nil, err
	}
	numbers, texts, err := fields(part)
	if err != nil {
		return nil, err
	}
	id := string(texts[1])
	if gathered[id] == nil {
		gathered[id] = map[uint64][]byte{}
	}
	gathered[id][numbers[2]] = texts[4]
	plaintext := varintField(nil, 1, 1)
	if uint64(len(gathered[id])) == numbers[3] {
		var wrapper []byte
		for i := range numbers[3] {
			wrapper = append(wrapper, gathered[id][i]...)
		}
		_, outer, err := fields(wrapper)
		if err != nil {
			return nil, err
		}
		if len(outer[1]) != 32 || len(outer[3]) == 0 {
			return nil, fmt.Errorf("no registration: %x", wrapper)
		}
		response := protowire.AppendFixed32(
			protowire.AppendTag(nil, 1, protowire.Fixed32Type), 192<<24|2<<8|77)
		response = varintField(response, 3, 4321)
		done := varintField(nil, 1, 1)
		done = varintField(done, 2, 0)
		done = bytesField(done, 3, response)
		plaintext = bytesField(varintField(nil, 1, 0), 2, done)
	}
	sealed, err := first.Encrypt(nil, nil, plaintext)
	if err != nil {
		return nil, err
	}
	return append([]byte{byte(len(sealed) >> 8), byte(len(sealed))}, sealed...), nil
}
