# The balancer's doors. The way on to the tasks is opened by the service, which knows them.

resource "aws_security_group" "this" {
  # checkov:skip=CKV2_AWS_5:attached to the balancer of this module
  name        = "${var.platform.name}-balancer"
  description = "Clients to the API, over TLS"
  vpc_id      = var.platform.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "https" {
  for_each          = toset(var.client_cidrs)
  security_group_id = aws_security_group.this.id
  description       = "The API"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_ingress_rule" "redirect" {
  # checkov:skip=CKV_AWS_260:port 80 answers with a redirect to HTTPS and nothing else
  for_each          = toset(var.client_cidrs)
  security_group_id = aws_security_group.this.id
  description       = "Redirected to HTTPS"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 80
  to_port           = 80
}

resource "aws_vpc_security_group_ingress_rule" "test" {
  for_each          = toset(concat([var.platform.vpc_cidr], var.test_cidrs))
  security_group_id = aws_security_group.this.id
  description       = "Who tries a new version before clients see it"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 8443
  to_port           = 8443
}
