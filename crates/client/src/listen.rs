//! A local port behind which the covert is, as the released command-line client offers it.

use std::io;

use tokio::net::{TcpListener, TcpStream};

use crate::register::Client;

/// Serves local connections for ever; each makes a registration of its own.
///
/// # Errors
/// When the listener fails for good.
pub async fn listen(client: Client, listener: TcpListener) -> io::Result<()> {
    loop {
        let (local, _) = listener.accept().await?;
        let client = client.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(&client, local).await {
                eprintln!("client: {error}");
            }
        });
    }
}

async fn serve(
    client: &Client,
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
