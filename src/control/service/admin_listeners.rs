//! The admin port's listeners: started when the process is ready, closed at its end, or handed over.
//!
//! In: listening sockets. Out: connections, to `admin_service.rs`.

use crate::control::lifecycle::failure::Failure;
use crate::control::net::{self, Listener};
use crate::control::service::accept::{Open, accept};
use crate::control::service::admin_service::AdminService;
use crate::control::state::Control;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;

/// The admin port's listeners, with the tasks that accept at them.
pub struct AdminListeners {
    listeners: Vec<(SocketAddr, Rc<Listener>)>,
    accepting: Vec<tokio::task::JoinHandle<()>>,
    open: Rc<Open>,
    /// They belong to a service manager, which keeps listening.
    are_shared: bool,
}

impl AdminListeners {
    /// Starts to accept at each of them.
    pub fn open(
        control: &Rc<Control>,
        listeners: Vec<TcpListener>,
        are_shared: bool,
    ) -> Result<AdminListeners, Failure> {
        let failure = |error| Failure::system(format!("the admin port: {error}"));
        let operator = AdminService::new(control.clone());
        let open = Open::new(listeners.len(), control.budget, control.shortages.clone());
        let mut admin_listeners =
            AdminListeners { listeners: Vec::new(), accepting: Vec::new(), open, are_shared };
        for listener in listeners {
            let address = listener.local_addr().map_err(failure)?;
            let listener = Rc::new(Listener::from_std(listener).map_err(failure)?);
            admin_listeners.accepting.push(net::spawn(accept(
                operator.clone(),
                listener.clone(),
                admin_listeners.open.clone(),
            )));
            admin_listeners.listeners.push((address, listener));
        }
        Ok(admin_listeners)
    }

    /// Stops accepting; open connections last until the process exits.
    pub async fn close(self) {
        self.leave(&[]).await;
    }

    /// Stops accepting; at the addresses `taken` another process continues.
    pub async fn leave(self, taken: &[SocketAddr]) {
        self.open.close();
        for (address, listener) in &self.listeners {
            if self.are_shared || taken.contains(address) {
                listener.leave();
            } else {
                listener.close();
            }
        }
        for task in self.accepting {
            let _ = task.await;
        }
    }
}
