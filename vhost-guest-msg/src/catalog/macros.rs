// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! From rows to types.

/// Makes, from the rows of one channel: a module of constants, an array of
/// [`Row`](super::Row)s, and an enum that decodes and encodes.
macro_rules! catalog {
    (
        $(#[$doc:meta])*
        $Enum:ident, $module:ident, $ROWS:ident, $channel:expr;
        $(
            $code:literal $NAME:ident $Variant:ident $(($Body:ty))?,
            $fds:ident, $gate:expr, $reply:ident, $verdict:expr;
        )*
    ) => {
        #[doc = concat!("Request numbers of [`", stringify!($Enum), "`](crate::", stringify!($Enum), ").")]
        pub mod $module {
            $(
                #[doc = concat!("See [`", stringify!($Variant), "`](crate::", stringify!($Enum), "::", stringify!($Variant), ").")]
                pub const $NAME: u32 = $code;
            )*
        }

        #[doc = concat!("The rows of [`", stringify!($Enum), "`].")]
        pub const $ROWS: &[Row] = {
            // The row does not depend on the descriptors' type.
            #[allow(dead_code)]
            type F = ();
            &[$(Row {
                channel: $channel,
                code: $code,
                name: stringify!($NAME),
                layout: <catalog!(@body $($Body)?) as $crate::body::Body<F>>::LAYOUT,
                fds: FdRule::$fds,
                gate: $gate,
                reply: ReplyRule::$reply,
                verdict: $verdict,
            }),*]
        };

        $(#[$doc])*
        ///
        /// It owns the descriptors that came with it. A request with a
        /// number that is in no row keeps its bytes.
        #[derive(Debug, PartialEq, Eq)]
        pub enum $Enum<F = ()> {
            $(
                #[doc = concat!("`", stringify!($NAME), "`, number ", stringify!($code), ".")]
                $Variant $(($Body))?,
            )*
            /// A request that has no row.
            Unknown {
                /// The number.
                code: u32,
                /// The payload.
                body: Opaque<F>,
            },
        }

        impl<F> $Enum<F> {
            /// The request number.
            #[must_use]
            pub fn code(&self) -> u32 {
                match self {
                    $(Self::$Variant { .. } => $code,)*
                    Self::Unknown { code, .. } => *code,
                }
            }

            /// Separates the descriptors from the message, which stays the
            /// same otherwise: they travel next to the encoded bytes.
            #[must_use]
            pub fn detach(self) -> ($Enum<()>, $crate::Fds<F>) {
                match self {
                    $(catalog!(@pattern $Variant body $($Body)?) => {
                        catalog!(@detach $Enum $Variant body $($Body)?)
                    })*
                    Self::Unknown { code, body } => {
                        let (body, fds) = $crate::body::Body::detach(body);
                        ($Enum::Unknown { code, body }, fds)
                    }
                }
            }
        }

        impl<F> $crate::request::Request<F> for $Enum<F> {
            const CHANNEL: Channel = $channel;

            fn code(&self) -> u32 {
                self.code()
            }

            fn parse<O: zerocopy::byteorder::ByteOrder>(
                code: u32,
                bytes: &[u8],
                fds: &mut $crate::Fds<F>,
                rules: &$crate::body::Rules<'_>,
            ) -> Result<Self, $crate::error::Reason> {
                use $crate::body::Body;
                Ok(match code {
                    $($code => {
                        let body = <catalog!(@body $($Body)?) as Body<F>>::parse::<O>(bytes, fds, rules)?;
                        catalog!(@build $Variant body $($Body)?)
                    })*
                    _ => {
                        let body = <Opaque<F> as Body<F>>::parse::<O>(bytes, fds, rules)?;
                        Self::Unknown { code, body }
                    }
                })
            }

            fn emit<O: zerocopy::byteorder::ByteOrder>(&self, writer: &mut $crate::writer::Writer<'_>) {
                use $crate::body::Body;
                match self {
                    $(catalog!(@pattern $Variant body $($Body)?) => {
                        catalog!(@emit F O writer body $($Body)?)
                    })*
                    Self::Unknown { body, .. } => Body::<F>::emit::<O>(body, writer),
                }
            }
        }
    };

    // A row without a payload type has the payload `()`, and its variant no
    // field.
    (@body) => { () };
    (@body $Body:ty) => { $Body };
    (@pattern $Variant:ident $body:ident) => { Self::$Variant };
    (@pattern $Variant:ident $body:ident $Body:ty) => { Self::$Variant($body) };
    (@build $Variant:ident $body:ident) => {{ let () = $body; Self::$Variant }};
    (@build $Variant:ident $body:ident $Body:ty) => { Self::$Variant($body) };
    (@emit $F:ident $O:ident $writer:ident $body:ident) => { () };
    (@emit $F:ident $O:ident $writer:ident $body:ident $Body:ty) => {
        Body::<$F>::emit::<$O>($body, $writer)
    };
    (@detach $Enum:ident $Variant:ident $body:ident) => {
        ($Enum::$Variant, $crate::Fds::new())
    };
    (@detach $Enum:ident $Variant:ident $body:ident $Body:ty) => {{
        let (body, fds) = $crate::body::Body::detach($body);
        ($Enum::$Variant(body), fds)
    }};
}

pub(super) use catalog;
