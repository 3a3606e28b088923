//! ArceOS and virtio under Siltstone.
#![no_std]
