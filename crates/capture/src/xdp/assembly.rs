//! Instructions of BPF, and programs whose jumps have names instead of distances.

/// One instruction: operation, destination and source register, offset, immediate value.
pub(super) const fn instruction(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    let [a, b] = offset.to_le_bytes();
    let [c, d, e, f] = value.to_le_bytes();
    u64::from_ne_bytes([code, src << 4 | dst, a, b, c, d, e, f])
}

/// The register of the stack, which grows down from there.
pub(super) const STACK: u8 = 10;

/// A half word of the packet, as a program that does not swap it sees it.
pub(super) const fn seen(value: u16) -> i32 {
    value.to_be() as i32
}

/// Operations; those with a value take it from the instruction, those with a source from a register.
pub(super) mod code {
    pub(in super::super) const LOAD_BYTE: u8 = 0x71;
    pub(in super::super) const LOAD_HALF: u8 = 0x69;
    pub(in super::super) const LOAD_WORD: u8 = 0x61;
    pub(in super::super) const LOAD_DOUBLE: u8 = 0x79;
    pub(in super::super) const LOAD_WIDE: u8 = 0x18;
    pub(in super::super) const LOAD_LONG: u8 = 0x79;
    pub(in super::super) const STORE_HALF: u8 = 0x6b;
    pub(in super::super) const STORE_WORD: u8 = 0x63;
    pub(in super::super) const STORE_LONG: u8 = 0x7b;
    /// Adds a register to 64 bits of memory that other processors may change at the same time.
    pub(in super::super) const ADD_IN_MEMORY: u8 = 0xdb;
    pub(in super::super) const MOVE: u8 = 0xb7;
    pub(in super::super) const COPY: u8 = 0xbf;
    pub(in super::super) const ADD: u8 = 0x07;
    pub(in super::super) const ADD_REGISTER: u8 = 0x0f;
    pub(in super::super) const MULTIPLY_REGISTER: u8 = 0x2f;
    pub(in super::super) const AND: u8 = 0x57;
    pub(in super::super) const OR: u8 = 0x47;
    pub(in super::super) const OR_REGISTER: u8 = 0x4f;
    pub(in super::super) const XOR_REGISTER: u8 = 0xaf;
    pub(in super::super) const MULTIPLY: u8 = 0x27;
    /// Swaps as many bits as the value says where the processor's order is another than the network's.
    pub(in super::super) const TO_BIG_ENDIAN: u8 = 0xdc;
    pub(in super::super) const SHIFT_LEFT: u8 = 0x67;
    pub(in super::super) const SHIFT_RIGHT: u8 = 0x77;
    pub(in super::super) const JUMP: u8 = 0x05;
    pub(in super::super) const JUMP_IF_EQUAL: u8 = 0x15;
    pub(in super::super) const JUMP_UNLESS_EQUAL: u8 = 0x55;
    pub(in super::super) const JUMP_IF_BELOW: u8 = 0xa5;
    pub(in super::super) const JUMP_IF_ANY: u8 = 0x45;
    pub(in super::super) const JUMP_IF_ABOVE: u8 = 0x25;
    pub(in super::super) const JUMP_IF_ABOVE_REGISTER: u8 = 0x2d;
    pub(in super::super) const JUMP_UNLESS_ABOVE_REGISTER: u8 = 0xbd;
    pub(in super::super) const JUMP_UNLESS_EQUAL_REGISTER: u8 = 0x5d;
    pub(in super::super) const CALL: u8 = 0x85;
    pub(in super::super) const EXIT: u8 = 0x95;
}

/// Says that the value of [`code::LOAD_WIDE`] is the descriptor of a map.
const MAP_BY_DESCRIPTOR: u8 = 1;

/// The same, of the value of its only entry.
pub(super) const VALUE_BY_DESCRIPTOR: u8 = 2;

/// A place in a program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Label(usize);

/// A program in the making.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    text: Vec<u64>,
    /// Where each label is, once it was placed.
    places: Vec<Option<usize>>,
    /// Jumps, and where they lead.
    jumps: Vec<(usize, Label)>,
}

impl Assembly {
    /// A place that is decided later.
    pub(super) fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// `label` is here.
    pub(super) fn place(&mut self, label: Label) {
        self.places[label.0] = Some(self.text.len());
    }

    /// An operation with a value from the instruction.
    pub(super) fn value(&mut self, code: u8, dst: u8, value: i32) {
        self.text.push(instruction(code, dst, 0, 0, value));
    }

    /// An operation with a value from a register.
    pub(super) fn register(&mut self, code: u8, dst: u8, src: u8) {
        self.text.push(instruction(code, dst, src, 0, 0));
    }

    /// `dst` becomes what stands `offset` bytes behind the address in `src`.
    pub(super) fn load(&mut self, code: u8, dst: u8, src: u8, offset: i16) {
        self.text.push(instruction(code, dst, src, offset, 0));
    }

    /// `src` goes to memory, `offset` bytes behind the address in `dst`.
    pub(super) fn store(&mut self, code: u8, dst: u8, offset: i16, src: u8) {
        self.text.push(instruction(code, dst, src, offset, 0));
    }

    /// `dst` becomes `value`.
    pub(super) fn constant(&mut self, dst: u8, value: u64) {
        let half = |value: u64| (value as u32).cast_signed();
        self.text.push(instruction(code::LOAD_WIDE, dst, 0, 0, half(value)));
        self.text.push(instruction(0, 0, 0, 0, half(value >> 32)));
    }

    /// `dst` becomes the map with this descriptor.
    pub(super) fn map(&mut self, dst: u8, descriptor: i32) {
        self.text.push(instruction(code::LOAD_WIDE, dst, MAP_BY_DESCRIPTOR, 0, descriptor));
        self.text.push(0);
    }

    /// `dst` becomes the address of what the map with this descriptor has in its only entry.
    pub(super) fn value_of_map(&mut self, dst: u8, descriptor: i32) {
        self.text.push(instruction(code::LOAD_WIDE, dst, VALUE_BY_DESCRIPTOR, 0, descriptor));
        self.text.push(0);
    }

    /// `dst` becomes a number of 64 bits.
    pub(super) fn wide(&mut self, dst: u8, value: u64) {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        let [low, high] = [[a, b, c, d], [e, f, g, h]].map(i32::from_le_bytes);
        self.text.push(instruction(code::LOAD_WIDE, dst, 0, 0, low));
        self.text.push(instruction(0, 0, 0, 0, high));
    }

    /// Goes to `otherwise` unless `len` bytes behind the address in `packet` come before that in `end`; register
    /// `free` is used.
    pub(super) fn reaches(&mut self, packet: u8, end: u8, len: i16, free: u8, otherwise: Label) {
        self.register(code::COPY, free, packet);
        self.value(code::ADD, free, len.into());
        self.jump_if_register(code::JUMP_IF_ABOVE_REGISTER, free, end, otherwise);
    }

    /// Looks the number in `register` up in the map with this descriptor: register 0 becomes the address of its
    /// value, or 0. Uses the topmost 4 bytes of the stack.
    pub(super) fn look_up(&mut self, map: i32, register: u8) {
        const LOOK_UP: i32 = 1;
        self.store(code::STORE_WORD, STACK, -4, register);
        self.map(1, map);
        self.register(code::COPY, 2, STACK);
        self.value(code::ADD, 2, -4);
        self.call(LOOK_UP);
    }

    /// Calls a function of the kernel.
    pub(super) fn call(&mut self, function: i32) {
        self.text.push(instruction(code::CALL, 0, 0, 0, function));
    }

    /// Ends with what is in register 0.
    pub(super) fn exit(&mut self) {
        self.text.push(instruction(code::EXIT, 0, 0, 0, 0));
    }

    /// Goes on at `to`.
    pub(super) fn jump(&mut self, to: Label) {
        self.jump_if(code::JUMP, 0, 0, to);
    }

    /// Goes on at `to` when `dst` compares so with `value`.
    pub(super) fn jump_if(&mut self, code: u8, dst: u8, value: i32, to: Label) {
        self.jumps.push((self.text.len(), to));
        self.text.push(instruction(code, dst, 0, 0, value));
    }

    /// Goes on at `to` when `dst` compares so with `src`.
    pub(super) fn jump_if_register(&mut self, code: u8, dst: u8, src: u8, to: Label) {
        self.jumps.push((self.text.len(), to));
        self.text.push(instruction(code, dst, src, 0, 0));
    }

    /// The program.
    pub(super) fn finish(self) -> Vec<u64> {
        let Self { mut text, places, jumps } = self;
        for (at, to) in jumps {
            // A label without place leads to the jump itself, which the kernel refuses.
            let distance = places[to.0].map_or(-1, |place| place as i64 - at as i64 - 1);
            let [code, registers, _, _, a, b, c, d] = text[at].to_ne_bytes();
            let [low, high] = i16::try_from(distance).unwrap_or(-1).to_le_bytes();
            text[at] = u64::from_ne_bytes([code, registers, low, high, a, b, c, d]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_as_the_kernel_lays_them_out() {
        assert_eq!(instruction(0x61, 2, 1, 16, 0).to_ne_bytes(), [0x61, 0x12, 16, 0, 0, 0, 0, 0]);
        assert_eq!(
            instruction(0xb7, 3, 0, 0, -2).to_ne_bytes(),
            [0xb7, 3, 0, 0, 0xfe, 0xff, 0xff, 0xff]
        );
    }

    #[test]
    fn jumps_lead_to_their_places() {
        let mut assembly = Assembly::default();
        let (back, end) = (assembly.label(), assembly.label());
        assembly.place(back);
        assembly.value(code::MOVE, 0, 2);
        assembly.jump_if(code::JUMP_IF_EQUAL, 0, 7, end);
        assembly.jump_if_register(code::JUMP_IF_ABOVE_REGISTER, 4, 3, back);
        assembly.place(end);
        assembly.exit();
        let expected = [
            instruction(0xb7, 0, 0, 0, 2),
            instruction(0x15, 0, 0, 1, 7),
            instruction(0x2d, 4, 3, -3, 0),
            instruction(0x95, 0, 0, 0, 0),
        ];
        assert_eq!(assembly.finish(), expected);
    }
}
