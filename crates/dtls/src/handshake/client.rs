//! The client's part.

use super::{Handshake, Stage, Step};
use crate::flight::Flight;
use crate::group::{Ephemeral, Group};
use crate::hello::{client_hello, parse_hello_verify_request, parse_server_hello};
use crate::message::{
    self, CERTIFICATE, CERTIFICATE_REQUEST, CERTIFICATE_VERIFY, CLIENT_HELLO, CLIENT_KEY_EXCHANGE,
    FINISHED, HELLO_VERIFY_REQUEST, SERVER_HELLO, SERVER_HELLO_DONE, SERVER_KEY_EXCHANGE,
    ServerKeyExchange,
};
use crate::refusal::Refusal;

impl Handshake {
    /// Takes the server's next message. Nothing has changed when it is refused.
    pub(super) fn client_receives(&mut self, kind: u8, body: &[u8]) -> Result<Step, Refusal> {
        match (self.stage, kind) {
            (Stage::ServerHello { cookie: false }, HELLO_VERIFY_REQUEST) => {
                let cookie = parse_hello_verify_request(body).ok_or(Refusal::Malformed)?;
                // RFC 6347 4.2.1: neither the first hello nor the request is part of the transcript.
                self.transcript.clear();
                self.flight = Flight::default();
                self.send(CLIENT_HELLO, client_hello(&self.client_random, cookie));
                self.stage = Stage::ServerHello { cookie: true };
                Ok(Step::Send)
            }
            (Stage::ServerHello { .. }, SERVER_HELLO) => {
                (self.server_random, self.suite) = parse_server_hello(body)?;
                self.next(kind, body, Stage::ServerCertificate)
            }
            (Stage::ServerCertificate, CERTIFICATE) => {
                self.check_certificate(body)?;
                self.next(kind, body, Stage::ServerKeyExchange)
            }
            (Stage::ServerKeyExchange, SERVER_KEY_EXCHANGE) => {
                self.server_key_exchange(body)?;
                self.next(kind, body, Stage::CertificateRequest)
            }
            (Stage::CertificateRequest, CERTIFICATE_REQUEST) => {
                message::check_certificate_request(body)?;
                self.next(kind, body, Stage::ServerHelloDone)
            }
            (Stage::ServerHelloDone, SERVER_HELLO_DONE) => {
                body.is_empty().then_some(()).ok_or(Refusal::Malformed)?;
                self.next(kind, body, Stage::ServerFinished)?;
                self.answer();
                Ok(Step::Send)
            }
            (Stage::ServerFinished, FINISHED) => {
                let expected = self.suite.server_finished(&self.master, &self.transcript);
                Ok(match Self::finished_matches(&expected, body) {
                    true => Step::Done,
                    false => Step::Broken,
                })
            }
            _ => Err(Refusal::Unexpected),
        }
    }

    pub(super) fn next(&mut self, kind: u8, body: &[u8], stage: Stage) -> Result<Step, Refusal> {
        self.accept(kind, body);
        self.stage = stage;
        Ok(Step::Wait)
    }

    fn server_key_exchange(&mut self, body: &[u8]) -> Result<(), Refusal> {
        self.spend()?;
        let exchange = ServerKeyExchange::parse(body)?;
        let group = Group::from_id(exchange.group).ok_or(Refusal::Group)?;
        let signed = exchange.signed(self.client_random.as_bytes(), &self.server_random);
        let signature = exchange.signature;
        let good = self.config.peer.verify(signature.scheme, &signed, signature.bytes);
        self.check(good, Refusal::Signature)?;
        let ephemeral = Ephemeral::new(group, || self.draws.next());
        self.premaster = ephemeral.agree(exchange.public)?;
        self.ephemeral = Some(ephemeral);
        Ok(())
    }

    /// Certificate to Finished, after ServerHelloDone.
    fn answer(&mut self) {
        self.flight = Flight::default();
        self.send(CERTIFICATE, message::certificate(self.config.identity.certificate()));
        let public = self.ephemeral.as_ref().map(|key| message::client_key_exchange(key.public()));
        self.send(CLIENT_KEY_EXCHANGE, public.unwrap_or_default());
        self.derive_keys();
        let signature = self.config.identity.sign(&self.transcript);
        self.send(CERTIFICATE_VERIFY, message::certificate_verify(&signature));
        self.flight.change_cipher_spec();
        let verify_data = self.suite.client_finished(&self.master, &self.transcript);
        self.send(FINISHED, verify_data.to_vec());
    }
}
