//! A local port behind which the covert is, as the released command-line client offers it.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::{TcpListener, TcpStream};

use crate::options::ClientConf;
use crate::register::{Client, Session};

/// A client whose ClientConf is replaced, in memory and in its file, when a registrar sends a newer
/// one.
#[derive(Debug)]
pub struct Keeper {
    client: RwLock<Client>,
    path: PathBuf,
}

impl Keeper {
    /// Keeps the ClientConf of `client` in the file at `path`.
    pub const fn new(client: Client, path: PathBuf) -> Self {
        Self { client: RwLock::new(client), path }
    }

    /// Registers with what is known now, and keeps what the reply says.
    ///
    /// # Errors
    /// As [`Client::register`]. A ClientConf that cannot be kept is reported on standard error.
    pub async fn register(&self) -> Result<Session, crate::RegisterError> {
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        let session = client.register().await?;
        if let Some(newer) = &session.newer {
            match ClientConf::store(&self.path, newer) {
                Ok(conf) => {
                    println!("client: ClientConf of generation {} kept", newer.generation());
                    self.client.write().unwrap_or_else(PoisonError::into_inner).conf = conf;
                }
                Err(error) => eprintln!("client: {error}"),
            }
        }
        Ok(session)
    }
}

/// Serves local connections for ever; each makes a registration of its own.
///
/// # Errors
/// When the listener fails for good.
pub async fn listen(client: Keeper, listener: TcpListener) -> io::Result<()> {
    let client = Arc::new(client);
    loop {
        let (local, _) = listener.accept().await?;
        let client = Arc::clone(&client);
        tokio::spawn(async move {
            if let Err(error) = serve(&client, local).await {
                eprintln!("client: {error}");
            }
        });
    }
}

async fn serve(
    client: &Keeper,
    mut local: TcpStream,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let session = client.register().await?;
    tokio::time::sleep(session.delay).await;
    let mut connection = session.connect().await?;
    println!("client: connected through {}", connection.phantom);
    // Either side may break off; the numbers are for the local program's eyes only.
    let _ = tokio::io::copy_bidirectional(&mut local, &mut connection.stream).await;
    Ok(())
}
