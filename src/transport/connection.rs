//! What a request knows of the connection that it came on.

use std::rc::Rc;

use actix_web::{HttpMessage, HttpRequest, dev::Extensions};

use crate::{protocol::Refusal, session::Sever};

/// The data of an HTTP/2 connection, which comes with each of its requests.
#[derive(Clone)]
pub struct ConnectionData(pub Rc<Extensions>);

/// What ends a response that its client does not take: the stream, where that is one of several, or
/// the connection.
#[derive(Clone)]
pub struct Lifeline(pub Rc<dyn Sever>);

/// The connection that a request came on is one too many, and this is why it can not be served.
pub struct NoPlace(pub Refusal);

/// What was made for the connection when it opened, whichever version of HTTP it speaks.
pub fn connection_data<T: Clone + 'static>(request: &HttpRequest) -> Option<T> {
    if let Some(data) = request.conn_data::<T>() {
        return Some(data.clone());
    }
    let extensions = request.extensions();
    let connection = extensions.get::<ConnectionData>()?;
    connection.0.get::<T>().cloned()
}

pub fn lifeline(request: &HttpRequest) -> Option<Rc<dyn Sever>> {
    let extensions = request.extensions();
    Some(Rc::clone(&extensions.get::<Lifeline>()?.0))
}
