//! The server's part.

use super::{Handshake, Stage, Step};
use crate::channel::LastFlight;
use crate::flight::Flight;
use crate::group::Ephemeral;
use crate::hello::{ClientHello, hello_verify_request, server_hello};
use crate::message::{
    self, CERTIFICATE, CERTIFICATE_REQUEST, CERTIFICATE_VERIFY, CLIENT_HELLO, CLIENT_KEY_EXCHANGE,
    FINISHED, HELLO_VERIFY_REQUEST, SERVER_HELLO, SERVER_HELLO_DONE, SERVER_KEY_EXCHANGE,
    Signature,
};
use crate::refusal::Refusal;

impl Handshake {
    /// Takes the client's next message. Nothing has changed when it is refused.
    pub(super) fn server_receives(&mut self, kind: u8, body: &[u8]) -> Result<Step, Refusal> {
        match (self.stage, kind) {
            (Stage::ClientHello { cookie }, CLIENT_HELLO) => self.client_hello(body, cookie),
            (Stage::ClientCertificate, CERTIFICATE) => {
                self.check_certificate(body)?;
                self.next(kind, body, Stage::ClientKeyExchange)
            }
            (Stage::ClientKeyExchange, CLIENT_KEY_EXCHANGE) => {
                self.spend()?;
                let public = message::parse_client_key_exchange(body)?;
                let agreed = self
                    .ephemeral
                    .as_ref()
                    .map_or(Err(Refusal::Group), |ephemeral| ephemeral.agree(public));
                self.check(agreed.is_ok(), Refusal::Group)?;
                self.premaster = agreed?;
                self.next(kind, body, Stage::CertificateVerify)?;
                self.derive_keys();
                Ok(Step::Wait)
            }
            (Stage::CertificateVerify, CERTIFICATE_VERIFY) => {
                self.spend()?;
                let signature = Signature::parse(body)?;
                let peer = &self.config.peer;
                let good = peer.verify(signature.scheme, &self.transcript, signature.bytes);
                self.check(good, Refusal::Signature)?;
                self.next(kind, body, Stage::ClientFinished)
            }
            (Stage::ClientFinished, FINISHED) => {
                let expected = self.suite.client_finished(&self.master, &self.transcript);
                if !Self::finished_matches(&expected, body) {
                    return Ok(Step::Broken);
                }
                self.accept(kind, body);
                self.flight = Flight::default();
                self.flight.change_cipher_spec();
                self.verify_data = self.suite.server_finished(&self.master, &self.transcript);
                self.send(FINISHED, self.verify_data.to_vec());
                Ok(Step::Done)
            }
            _ => Err(Refusal::Unexpected),
        }
    }

    fn client_hello(&mut self, body: &[u8], cookie: bool) -> Result<Step, Refusal> {
        let hello = ClientHello::parse(body)?;
        if *hello.random.tag() != self.config.tag {
            return Err(Refusal::Random);
        }
        if cookie && hello.cookie != self.cookie {
            return Err(Refusal::Cookie);
        }
        self.flight = Flight::default();
        if self.config.verify_hello && !cookie {
            // RFC 6347 4.2.1: neither this hello nor the request is part of the transcript.
            self.send(HELLO_VERIFY_REQUEST, hello_verify_request(&self.cookie));
            self.transcript.clear();
            self.stage = Stage::ClientHello { cookie: true };
            return Ok(Step::Send);
        }
        self.client_random = hello.random;
        self.suite = hello.suite;
        self.accept(CLIENT_HELLO, body);

        let ephemeral = Ephemeral::new(hello.group, || self.draws.next());
        self.send(SERVER_HELLO, server_hello(&self.server_random, hello.suite, hello.offers));
        self.send(CERTIFICATE, message::certificate(self.config.identity.certificate()));
        let exchange = message::server_key_exchange(
            hello.group,
            ephemeral.public(),
            [self.client_random.as_bytes(), &self.server_random],
            |message| self.config.identity.sign(message),
        );
        self.send(SERVER_KEY_EXCHANGE, exchange);
        self.send(CERTIFICATE_REQUEST, message::certificate_request());
        self.send(SERVER_HELLO_DONE, Vec::new());
        self.ephemeral = Some(ephemeral);
        self.stage = Stage::ClientCertificate;
        Ok(Step::Send)
    }

    /// Keeps what the last flight is made from: the client may not see it, and ask again.
    pub(super) fn keep_last_flight(&mut self) {
        if let Some(channel) = &mut self.channel {
            channel.last_flight = Some(LastFlight {
                verify_data: self.verify_data,
                sequence: self.sequence - 1,
                number: self.number,
            });
        }
    }
}
