# Nothing can connect to a machine; it reaches out over HTTPS for its agent and for images.

resource "aws_security_group" "instance" {
  name        = "${var.platform.name}-gpu-instance"
  description = "GPU machines: no way in, HTTPS out"
  vpc_id      = var.platform.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "endpoints" {
  security_group_id            = aws_security_group.instance.id
  description                  = "AWS services through interface endpoints"
  referenced_security_group_id = var.platform.endpoint_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
}

resource "aws_vpc_security_group_egress_rule" "https" {
  for_each          = toset(var.https_egress_cidrs)
  security_group_id = aws_security_group.instance.id
  description       = "Image registries and S3 answer from public addresses"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}
