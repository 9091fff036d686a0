locals {
  # Bucket → its ARN and its objects'.
  scopes = { for one, arn in local.arns : one => [arn, "${arn}/*"] }

  clear_text = { for one, scope in local.scopes : one => {
    Sid       = "NothingInClearText"
    Effect    = "Deny"
    Principal = { AWS = "*" }
    Action    = "s3:*"
    Resource  = scope
    Condition = { Bool = { "aws:SecureTransport" = "false" } }
  } }
  old_tls = { for one, scope in local.scopes : one => {
    Sid       = "NothingBelowTls12"
    Effect    = "Deny"
    Principal = { AWS = "*" }
    Action    = "s3:*"
    Resource  = scope
    Condition = { NumericLessThan = { "s3:TlsVersion" = "1.2" } }
  } }
  # Who names no encryption gets the bucket's own. Who names another one is refused: a foreign key would lock everybody
  # else out. `Null` is what makes it so: a negated comparison alone is also true where the header is missing.
  other_keys = { for one in local.contents : one => [
    for header, value in {
      "s3:x-amz-server-side-encryption"                = "aws:kms"
      "s3:x-amz-server-side-encryption-aws-kms-key-id" = var.kms_key_arn
      } : {
      Sid       = header == "s3:x-amz-server-side-encryption" ? "NoOtherEncryption" : "NoOtherKey"
      Effect    = "Deny"
      Principal = { AWS = "*" }
      Action    = "s3:PutObject"
      Resource  = "${local.arns[one]}/*"
      Condition = {
        StringNotEquals = { (header) = value }
        Null            = { (header) = "false" }
      }
    }
  ] }
  deliveries = [
    {
      Sid       = "S3DeliversAccessLogs"
      Effect    = "Allow"
      Principal = { Service = "logging.s3.amazonaws.com" }
      Action    = "s3:PutObject"
      Resource  = "${local.arns["logs"]}/s3/*"
      Condition = {
        StringEquals = { "aws:SourceAccount" = var.account_id }
        # The delivery pipeline's bucket is made in a later stage; its name is known.
        ArnLike = { "aws:SourceArn" = concat(
          [for one in local.contents : local.arns[one]], ["arn:aws:s3:::${var.name}-delivery-${var.account_id}"]
        ) }
      }
    },
    {
      Sid       = "LoadBalancersDeliverAccessLogs"
      Effect    = "Allow"
      Principal = { Service = "logdelivery.elasticloadbalancing.amazonaws.com" }
      Action    = "s3:PutObject"
      Resource  = [for prefix in ["", "*/"] : "${local.arns["logs"]}/${prefix}AWSLogs/${var.account_id}/*"]
      Condition = { ArnLike = {
        "aws:SourceArn" = "arn:aws:elasticloadbalancing:${var.region}:${var.account_id}:loadbalancer/*"
      } }
    },
  ]
}

resource "aws_s3_bucket_policy" "this" {
  for_each = aws_s3_bucket_public_access_block.this
  bucket   = each.value.bucket
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [local.clear_text[each.key], local.old_tls[each.key]],
      try(local.other_keys[each.key], []),
      [for one in local.deliveries : one if each.key == "logs"],
    )
  })
}
