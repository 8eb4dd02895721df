//! Declarative field tables: what a record may hold, and what each field must look like.
//!
//! Entities and plugin configurations are tables of [`Field`]s; one walker ([`crate::load()`]) reads any of them. To support a
//! further plugin or field means adding rows, not code.

mod check;
mod describe;

pub(crate) use check::{Check, check_value};
pub use describe::{all_fields, plugin_schema_of, schema_of};

/// What a field holds.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    String,
    Number,
    Integer,
    Boolean,
    /// A list of the element described by the field.
    Array(&'static Field),
    /// A list without repetitions (Kong keeps them; so do we, they are harmless).
    Set(&'static Field),
    /// Any key to the value described by the field.
    Map(&'static Field),
    Record(&'static [Field]),
    /// A reference to an entity of that collection: an id, a key, `{id}` or `{name}`.
    Foreign(&'static str),
    /// Nested entities of that collection; they get a reference to this one in the named field.
    Children(&'static str, &'static str),
    /// `config` of a plugin, whose table depends on its name.
    PluginConfig,
    /// Checked for nothing.
    Any,
}

/// Defaults that fit into a constant.
#[derive(Clone, Copy)]
pub(crate) enum Literal {
    Bool(bool),
    Int(i64),
    Number(f64),
    Str(&'static str),
    Strs(&'static [&'static str]),
    Ints(&'static [i64]),
}

/// What the gateway makes of a field, for `gateway check`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Supported,
    Ignored(&'static str),
    Different(&'static str),
}

/// One row of a table.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
    pub default: Option<Literal>,
    pub checks: &'static [Check],
    /// Strings are refused when empty unless this is set.
    pub empty: bool,
    /// A string that may be a `{vault://…}` reference.
    pub referenceable: bool,
    pub used: Use,
}

const fn field(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        required: false,
        default: None,
        checks: &[],
        empty: false,
        referenceable: false,
        used: Use::Supported,
    }
}

pub(crate) const fn string(name: &'static str) -> Field {
    field(name, Kind::String)
}

pub(crate) const fn number(name: &'static str) -> Field {
    field(name, Kind::Number)
}

pub(crate) const fn integer(name: &'static str) -> Field {
    field(name, Kind::Integer)
}

pub(crate) const fn boolean(name: &'static str) -> Field {
    field(name, Kind::Boolean)
}

pub(crate) const fn array(name: &'static str, element: &'static Field) -> Field {
    field(name, Kind::Array(element))
}

pub(crate) const fn set(name: &'static str, element: &'static Field) -> Field {
    field(name, Kind::Set(element))
}

pub(crate) const fn map(name: &'static str, value: &'static Field) -> Field {
    field(name, Kind::Map(value))
}

pub(crate) const fn record(name: &'static str, fields: &'static [Field]) -> Field {
    field(name, Kind::Record(fields))
}

pub(crate) const fn foreign(name: &'static str, collection: &'static str) -> Field {
    field(name, Kind::Foreign(collection))
}

pub(crate) const fn children(name: &'static str, parent_field: &'static str) -> Field {
    field(name, Kind::Children(name, parent_field))
}

pub(crate) const fn any(name: &'static str) -> Field {
    field(name, Kind::Any)
}

pub(crate) const fn plugin_config() -> Field {
    field("config", Kind::PluginConfig)
}

impl Field {
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    pub const fn or(mut self, default: Literal) -> Self {
        self.default = Some(default);
        self
    }

    pub const fn check(mut self, checks: &'static [Check]) -> Self {
        self.checks = checks;
        self
    }

    pub const fn may_be_empty(mut self) -> Self {
        self.empty = true;
        self
    }

    /// The value may be a `{vault://…}` reference, read when the file is loaded.
    pub const fn referenceable(mut self) -> Self {
        self.referenceable = true;
        self
    }

    pub const fn ignored(mut self, why: &'static str) -> Self {
        self.used = Use::Ignored(why);
        self
    }

    pub const fn different(mut self, why: &'static str) -> Self {
        self.used = Use::Different(why);
        self
    }
}

/// A plain string element of a list.
pub(crate) const TEXT: Field = string("");
pub(crate) const YES: Literal = Literal::Bool(true);
pub(crate) const NO: Literal = Literal::Bool(false);

pub(crate) const PORT: &[Check] = &[Check::Between(0.0, 65_535.0)];
pub(crate) const COUNT_255: &[Check] = &[Check::Between(0.0, 255.0)];
