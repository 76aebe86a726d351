//! `kill -9` under load: of a replica, of children, of ziggurat itself. Every call ends, nothing is executed twice, every session that may be
//! healed is, and nothing is left.

mod children;
mod hard;
mod load;
mod replica;
mod replicas;
