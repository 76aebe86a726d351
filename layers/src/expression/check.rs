//! What an expression may be: which names and functions it uses, and what it could cost.

use std::collections::BTreeSet;

use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, IdedExpr};

use super::{BadExpression, Expression, Variable};

/// The functions that an expression may use, beside operators and macros.
const FUNCTIONS: &[&str] = &[
    "contains",
    "double",
    "endsWith",
    "int",
    "size",
    "startsWith",
    "string",
    "type",
    "uint",
];

/// How the parser calls the operators, and what macros are made of.
const OPERATORS: &[&str] = &[
    "!_",
    "-_",
    "@in",
    "@not_strictly_false",
    "_!=_",
    "_%_",
    "_&&_",
    "_*_",
    "_+_",
    "_-_",
    "_/_",
    "_<=_",
    "_<_",
    "_==_",
    "_>=_",
    "_>_",
    "_?._",
    "_?_:_",
    "_[?_]",
    "_[_]",
    "_||_",
];

/// Looks whether an expression may be used, and which names it uses.
pub(super) fn check(expression: &IdedExpr) -> Result<BTreeSet<Variable>, BadExpression> {
    let mut check = Check::default();
    check.look(expression)?;
    Ok(check.uses)
}

#[derive(Default)]
struct Check {
    parts: usize,
    depth: usize,
    /// How many parts a macro repeats; none outside of one.
    repeated: Option<usize>,
    /// The names that macros bring.
    own: Vec<String>,
    /// The names of ours that are used.
    uses: BTreeSet<Variable>,
}

impl Check {
    fn look(&mut self, expr: &IdedExpr) -> Result<(), BadExpression> {
        self.depth += 1;
        let looked = self.look_into(expr);
        self.depth -= 1;
        looked
    }

    fn look_into(&mut self, expr: &IdedExpr) -> Result<(), BadExpression> {
        self.parts += 1;
        if self.parts > Expression::PARTS || self.depth > Expression::DEEPEST {
            return Err(BadExpression::TooLong);
        }
        if let Some(repeated) = &mut self.repeated {
            *repeated += 1;
            if *repeated > Expression::REPEATED {
                return Err(BadExpression::Costly(
                    "a macro asks too much of each element",
                ));
            }
        }
        match &expr.expr {
            Expr::Ident(name) => self.name(name),
            Expr::Literal(_) => Ok(()),
            Expr::Select(select) => self.look(&select.operand),
            Expr::List(list) => list.elements.iter().try_for_each(|part| self.look(part)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.look(&entry.key)?;
                    self.look(&entry.value)
                }
                EntryExpr::StructField(field) => self.look(&field.value),
            }),
            Expr::Call(call) => {
                self.function(&call.func_name, &call.args)?;
                let target = call.target.iter().map(|target| &**target);
                target
                    .chain(&call.args)
                    .try_for_each(|part| self.look(part))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(_) | Expr::Unspecified => {
                Err(BadExpression::Unknown("a structure".to_owned()))
            }
        }
    }

    fn name(&mut self, name: &str) -> Result<(), BadExpression> {
        // What a macro brings hides what is there.
        if self.own.iter().any(|own| own == name) {
            return Ok(());
        }
        let known = Variable::ALL
            .into_iter()
            .find(|known| known.as_str() == name);
        let known = known.ok_or_else(|| BadExpression::Unknown(name.to_owned()))?;
        self.uses.insert(known);
        Ok(())
    }

    fn function(&self, name: &str, args: &[IdedExpr]) -> Result<(), BadExpression> {
        if !OPERATORS.contains(&name) && !FUNCTIONS.contains(&name) {
            return Err(BadExpression::Unknown(name.to_owned()));
        }
        if self.repeated.is_none() {
            return Ok(());
        }
        let written = matches!(args.get(1).map(|list| &list.expr), Some(Expr::List(_)));
        match name {
            "_+_" => Err(BadExpression::Costly("a macro adds up")),
            "@in" if !written => Err(BadExpression::Costly(
                "a macro looks something up in a list that is not written out",
            )),
            _ => Ok(()),
        }
    }

    fn comprehension(&mut self, of: &ComprehensionExpr) -> Result<(), BadExpression> {
        if self.repeated.is_some() {
            return Err(BadExpression::Costly("a macro stands within another"));
        }
        self.look(&of.iter_range)?;
        self.look(&of.accu_init)?;
        let outer = self.own.len();
        self.own.extend([of.iter_var.clone(), of.accu_var.clone()]);
        self.own.extend(of.iter_var2.clone());
        self.repeated = Some(0);
        self.look(&of.loop_cond)?;
        self.look(&of.loop_step)?;
        self.repeated = None;
        self.look(&of.result)?;
        self.own.truncate(outer);
        Ok(())
    }
}
