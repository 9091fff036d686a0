resource "aws_security_group" "this" {
  name        = "${var.platform.name}-keys"
  description = "The database of keys: gateways in, nothing out"
  vpc_id      = var.platform.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "from_client" {
  security_group_id            = aws_security_group.this.id
  description                  = "Gateways"
  referenced_security_group_id = var.client_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

resource "aws_vpc_security_group_egress_rule" "from_client" {
  security_group_id            = var.client_security_group_id
  description                  = "Keys, limits and usage"
  referenced_security_group_id = aws_security_group.this.id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}
