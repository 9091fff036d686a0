# Coarse walls behind the security groups. They know no connections, so answers need their own rule: ports from 1024 on.

locals {
  anywhere  = "0.0.0.0/0"
  high_port = [1024, 65535]

  # (direction, number) → (protocol, from, to, addresses)
  private_rules = {
    in_100  = { egress = false, number = 100, protocol = "-1", ports = [0, 0], cidr = var.vpc_cidr }
    in_110  = { egress = false, number = 110, protocol = "tcp", ports = local.high_port, cidr = local.anywhere }
    out_100 = { egress = true, number = 100, protocol = "-1", ports = [0, 0], cidr = var.vpc_cidr }
    out_110 = { egress = true, number = 110, protocol = "tcp", ports = [443, 443], cidr = local.anywhere }
  }
  public_rules = {
    in_100  = { egress = false, number = 100, protocol = "-1", ports = [0, 0], cidr = var.vpc_cidr }
    in_110  = { egress = false, number = 110, protocol = "tcp", ports = [443, 443], cidr = local.anywhere }
    in_120  = { egress = false, number = 120, protocol = "tcp", ports = [80, 80], cidr = local.anywhere }
    in_130  = { egress = false, number = 130, protocol = "tcp", ports = local.high_port, cidr = local.anywhere }
    out_100 = { egress = true, number = 100, protocol = "-1", ports = [0, 0], cidr = var.vpc_cidr }
    out_110 = { egress = true, number = 110, protocol = "tcp", ports = [443, 443], cidr = local.anywhere }
    out_120 = { egress = true, number = 120, protocol = "tcp", ports = local.high_port, cidr = local.anywhere }
  }
}

resource "aws_network_acl" "private" {
  vpc_id     = aws_vpc.this.id
  subnet_ids = [for one in aws_subnet.private : one.id]
  tags       = { Name = "${var.name}-private" }
}

resource "aws_network_acl_rule" "private" {
  # checkov:skip=CKV_AWS_352:all ports are open to this network only; security groups decide inside it
  # checkov:skip=CKV_AWS_231:answers to connections that we opened come back to any port from 1024 on, 3389 among them; security groups know connections and let nothing else in
  for_each       = local.private_rules
  network_acl_id = aws_network_acl.private.id
  egress         = each.value.egress
  rule_number    = each.value.number
  protocol       = each.value.protocol
  rule_action    = "allow"
  cidr_block     = each.value.cidr
  from_port      = each.value.ports[0]
  to_port        = each.value.ports[1]
}

resource "aws_network_acl" "public" {
  vpc_id     = aws_vpc.this.id
  subnet_ids = [for one in aws_subnet.public : one.id]
  tags       = { Name = "${var.name}-public" }
}

resource "aws_network_acl_rule" "public" {
  # checkov:skip=CKV_AWS_352:all ports are open to this network only; security groups decide inside it
  # checkov:skip=CKV_AWS_231:answers to connections that we opened come back to any port from 1024 on; security groups know connections and let nothing else in
  for_each       = local.public_rules
  network_acl_id = aws_network_acl.public.id
  egress         = each.value.egress
  rule_number    = each.value.number
  protocol       = each.value.protocol
  rule_action    = "allow"
  cidr_block     = each.value.cidr
  from_port      = each.value.ports[0]
  to_port        = each.value.ports[1]
}
