//! A number of places that a reload can change while they are in use.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// Places, each taken by one user at a time.
#[derive(Debug)]
pub struct Bound {
    places: Arc<Semaphore>,
    size: Mutex<usize>,
}

impl Bound {
    /// `size` free places.
    pub fn new(size: usize) -> Self {
        let size = size.min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(size)), size: Mutex::new(size) }
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// Never: the places are not closed.
    pub async fn enter(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.places).acquire_owned().await
    }

    /// Takes a place if there is one.
    ///
    /// # Errors
    /// When there is none.
    pub fn try_enter(&self) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        Arc::clone(&self.places).try_acquire_owned()
    }

    /// Changes the number of places. Users keep theirs: with fewer places than users, nobody enters until
    /// enough have left. Must be called within a tokio runtime.
    pub fn resize(&self, size: usize) {
        let size = size.min(Semaphore::MAX_PERMITS);
        let mut present = self.size.lock();
        if size > *present {
            self.places.add_permits(size - *present);
        } else {
            let surplus = *present - size;
            let left = surplus - self.places.forget_permits(surplus);
            if let Ok(left @ 1..) = u32::try_from(left) {
                let places = Arc::clone(&self.places);
                tokio::spawn(async move {
                    for _ in 0..left {
                        if let Ok(place) = places.acquire().await {
                            place.forget();
                        }
                    }
                });
            }
        }
        *present = size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn users_keep_their_places_when_there_are_fewer() {
        let bound = Bound::new(3);
        let users: Vec<_> = (0..3).map(|_| bound.try_enter().unwrap()).collect();
        bound.resize(1);
        tokio::task::yield_now().await;
        drop(users);
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let user = bound.enter().await.unwrap();
        assert!(bound.try_enter().is_err());
        bound.resize(2);
        assert!(bound.try_enter().is_ok());
        drop(user);
    }
}
